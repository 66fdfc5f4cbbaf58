# Static deep prompts, a baseline of the paper.
_base_ = [
    '_base_/models/moving_shapes_recognizer.py',
    '_base_/datasets/moving_shapes.py',
    '_base_/schedules/moving_shapes.py',
    '_base_/default_runtime.py',
]
model = dict(
    backbone=dict(_delete_=True, type='DeepPromptCLIPViT', clip={{_base_.clip_vit}}),
    cls_head=dict(classes={{_base_.classes}}),
)
