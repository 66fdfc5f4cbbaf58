# Minutes on two cores; chosen on the validation split.
_base_ = 'adamw_cosine.py'
train_cfg = dict(max_epochs=8)
optim_wrapper = dict(optimizer=dict(lr=3e-3))
