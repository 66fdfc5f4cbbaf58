_base_ = '../_base_/tasks/didemo.py'
model = dict(
    backbone=dict(_delete_=True, type='STAdapter', clip={{_base_.clip_vit}}),
    text=dict(_delete_=True, type='HoulsbyAdapter', clip={{_base_.clip_text}}),
)
