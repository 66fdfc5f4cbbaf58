# A small network beside each frozen tower, which reads its hidden states.
_base_ = '../_base_/tasks/activitynet.py'
model = dict(
    backbone=dict(_delete_=True, type='UniPT', clip={{_base_.clip_vit}}),
    text=dict(_delete_=True, type='UniPT', clip={{_base_.clip_text}}),
)
optim_wrapper = dict(optimizer=dict(lr=1e-4))
