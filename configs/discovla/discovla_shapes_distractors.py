# CLS that sees all frames, and LoRA in both towers; without pseudo captions.
_base_ = '../_base_/tasks/shapes_distractors.py'
clip_vit = dict(_base_.clip_vit, lora=dict(rank=8))
clip_text = dict(_base_.clip_text, lora=dict(rank=8))
model = dict(
    backbone=dict(_delete_=True, type='DiscoVLACLIPViT', clip=clip_vit),
    cls_head=dict(text=dict(_delete_=True, type='DiscoVLACLIPText', clip=clip_text)),
)
