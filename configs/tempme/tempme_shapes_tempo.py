# Token merging across neighbouring frames, with LoRA in both towers.
_base_ = '../_base_/tasks/shapes_tempo.py'
clip_vit = dict(_base_.clip_vit, lora=dict(rank=8))
clip_text = dict(_base_.clip_text, lora=dict(rank=8))
model = dict(
    backbone=dict(_delete_=True, type='TempMeCLIPViT', clip=clip_vit, joins=(2, 3)),
    cls_head=dict(text=clip_text),
)
