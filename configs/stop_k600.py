_base_ = '_base_/tasks/k600.py'
model = dict(
    backbone=dict(_delete_=True, type='STOPCLIPViT', clip={{_base_.clip_vit}})
)
