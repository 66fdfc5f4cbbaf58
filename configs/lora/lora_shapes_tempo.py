_base_ = '../_base_/tasks/shapes_tempo.py'
model = dict(
    backbone=dict(lora=dict(rank=8)),
    cls_head=dict(text=dict(lora=dict(rank=8))),
)
