# Takes minutes on two cores. All values were tuned on the validation split; only the
# kind of schedule comes from the paper.
_base_ = 'adamw_cosine.py'
train_cfg = dict(max_epochs=8)
optim_wrapper = dict(
    optimizer=dict(
        _delete_=True, type='AdamW', lr=3e-3, weight_decay=0.05
    )
)
warm_up, cosine = _base_.param_scheduler
param_scheduler = [dict(warm_up, end=0.25), dict(cosine, begin=0.25)]
del warm_up, cosine
