_base_ = '../_base_/tasks/shapes_tempo.py'
model = dict(
    backbone=dict(_delete_=True, type='HoulsbyAdapter', clip={{_base_.clip_vit}}),
    cls_head=dict(
        text=dict(_delete_=True, type='HoulsbyAdapter', clip={{_base_.clip_text}})
    ),
)
