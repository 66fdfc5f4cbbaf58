_base_ = '../_base_/tasks/moving_shapes_retrieval.py'
model = dict(
    backbone=dict(lora=dict(rank=8)),
    text=dict(lora=dict(rank=8)),
)
