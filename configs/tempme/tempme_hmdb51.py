# Token merging across neighbouring frames, with LoRA in both towers.
_base_ = '../_base_/tasks/hmdb51.py'
clip_vit = dict(_base_.clip_vit, lora=dict(rank=8))
clip_text = dict(_base_.clip_text, lora=dict(rank=8))
model = dict(
    backbone=dict(_delete_=True, type='TempMeCLIPViT', clip=clip_vit),
    cls_head=dict(text=clip_text),
)
optim_wrapper = dict(optimizer=dict(lr=6e-4))
