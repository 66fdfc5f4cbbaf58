# Token merging across neighbouring frames, with LoRA in both towers.
_base_ = '../_base_/tasks/didemo.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='TempMeCLIPViT',
        clip=dict(_base_.clip_vit, lora=dict(rank=8)),
        joins=(4, 4, 4),
    ),
    text=dict(lora=dict(rank=8)),
)
optim_wrapper = dict(optimizer=dict(lr=6e-4))
