_base_ = '../_base_/tasks/vatex.py'
model = dict(
    backbone=dict(_delete_=True, type='AdapterFFN', clip={{_base_.clip_vit}}),
    text=dict(_delete_=True, type='AdapterFFN', clip={{_base_.clip_text}}),
)
