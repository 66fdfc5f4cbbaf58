_base_ = '../_base_/tasks/ssv2.py'
aim = dict(type='AIMCLIPViT', num_frames=_base_.num_frames, temporal_in=True)
model = dict(
    backbone=dict(aim, _delete_=True, clip=_base_.clip_vit),
    cls_head=dict(label_smooth_eps=0.1),
)
optim_wrapper = dict(optimizer=dict(lr=3e-4, weight_decay=0.05))
train_cfg = dict(max_epochs=50)
train_dataloader = dict(batch_size=8)  # 8 GPUs -> 64
auto_scale_lr = dict(base_batch_size=64)
