_base_ = '_base_/tasks/moving_shapes.py'
# Prompts at the input only: README and docs report these.
model = dict(
    backbone=dict(
        _delete_=True, type='STOPCLIPViT', clip={{_base_.clip_vit}}, depth=1
    )
)
