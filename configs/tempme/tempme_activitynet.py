# Token merging across neighbouring frames, with LoRA in both towers.
_base_ = '../_base_/tasks/activitynet.py'
clip_vit = dict(_base_.clip_vit, lora=dict(rank=8))
clip_text = dict(_base_.clip_text, lora=dict(rank=8))
model = dict(
    backbone=dict(_delete_=True, type='TempMeCLIPViT', clip=clip_vit, joins=(4, 4, 4)),
    text=clip_text,
)
optim_wrapper = dict(optimizer=dict(lr=6e-4))
