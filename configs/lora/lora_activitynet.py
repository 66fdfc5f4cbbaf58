_base_ = '../_base_/tasks/activitynet.py'
model = dict(
    backbone=dict(lora=dict(rank=8)),
    text=dict(lora=dict(rank=8)),
)
optim_wrapper = dict(optimizer=dict(lr=6e-4))
