_base_ = '_base_/tasks/shapes_distractors.py'
model = dict(
    backbone=dict(_delete_=True, type='STOPCLIPViT', clip={{_base_.clip_vit}})
)
