_base_ = ['../_base_/tasks/shapes_tempo.py', '../_base_/methods/clip4clip.py']
model = dict(
    backbone=dict(trainable={{_base_.trainable}}),
    cls_head=dict(text=dict(trainable={{_base_.trainable}})),
)
# 1e-5 instead of 1e-7, since this CLIP is tiny and sees few videos.
optim_wrapper = dict(_base_.recipe, optimizer=dict(lr=1e-2))
