# Token merging across neighbouring frames, with LoRA in both towers.
_base_ = '../_base_/tasks/moving_shapes.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='TempMeCLIPViT',
        clip=dict(_base_.clip_vit, lora=dict(rank=8)),
        joins=(2, 3),
    ),
    cls_head=dict(text=dict(lora=dict(rank=8))),
)
