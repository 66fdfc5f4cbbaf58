_base_ = '../_base_/tasks/hmdb51.py'
model = dict(
    backbone=dict(lora=dict(rank=8)),
    cls_head=dict(text=dict(lora=dict(rank=8))),
)
optim_wrapper = dict(optimizer=dict(lr=6e-4))
