# The authors' five epochs of MSR-VTT at a global batch of 128 (4 x 32). They publish no
# script for VATEX, whose captions are as many and as long.
_base_ = 'adamw_cosine.py'
train_cfg = dict(max_epochs=5)
warm_up, cosine = _base_.param_scheduler
param_scheduler = [dict(warm_up, end=0.5), dict(cosine, begin=0.5)]
del warm_up, cosine
