_base_ = '../_base_/tasks/shapes_tempo.py'
aim = dict(type='AIMCLIPViT', num_frames=_base_.num_frames)
model = dict(backbone=dict(aim, _delete_=True, clip=_base_.clip_vit))
