_base_ = [
    '_base_/models/moving_shapes_recognizer.py',
    '_base_/datasets/moving_shapes.py',
    '_base_/schedules/moving_shapes.py',
    '_base_/default_runtime.py',
]
# Prompts at the input only: README and docs report these.
model = dict(
    backbone=dict(
        _delete_=True, type='STOPCLIPViT', clip={{_base_.clip_vit}}, depth=1
    ),
    cls_head=dict(classes={{_base_.classes}}),
)
