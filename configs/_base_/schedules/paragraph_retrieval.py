# The authors' ten epochs for ActivityNet with a global batch of 128 (8 x 16). They
# publish no script for DiDeMo, the other dataset with one paragraph per video.
_base_ = 'adamw_cosine.py'
train_cfg = dict(max_epochs=10)
warm_up, cosine = _base_.param_scheduler
param_scheduler = [dict(warm_up, end=1), dict(cosine, begin=1)]
del warm_up, cosine
