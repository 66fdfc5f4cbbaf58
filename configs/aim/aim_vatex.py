_base_ = '../_base_/tasks/vatex.py'
aim = dict(type='AIMCLIPViT', num_frames=_base_.num_frames)
model = dict(backbone=dict(aim, _delete_=True, clip=_base_.clip_vit))
optim_wrapper = dict(optimizer=dict(lr=3e-4, weight_decay=0.05))
