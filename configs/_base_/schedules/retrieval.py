# The authors' five epochs for MSR-VTT with a global batch of 128 (4 x 32). They publish
# no script for VATEX, whose captions are similar in number and length.
_base_ = 'adamw_cosine.py'
train_cfg = dict(max_epochs=5)
warm_up, cosine = _base_.param_scheduler
param_scheduler = [dict(warm_up, end=0.5), dict(cosine, begin=0.5)]
del warm_up, cosine
