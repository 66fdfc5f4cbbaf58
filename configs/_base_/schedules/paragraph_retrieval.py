# The authors' ten epochs of ActivityNet at a global batch of 128 (8 x 16). They publish
# no script for DiDeMo, the other data set with a paragraph a video.
_base_ = 'adamw_cosine.py'
train_cfg = dict(max_epochs=10)
warm_up, cosine = _base_.param_scheduler
param_scheduler = [dict(warm_up, end=1), dict(cosine, begin=1)]
del warm_up, cosine
