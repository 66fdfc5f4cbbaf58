_base_ = ['../_base_/tasks/ucf101.py', '../_base_/methods/clip4clip.py']
model = dict(
    backbone=dict(trainable={{_base_.trainable}}),
    cls_head=dict(text=dict(trainable={{_base_.trainable}})),
)
optim_wrapper = {{_base_.recipe}}
