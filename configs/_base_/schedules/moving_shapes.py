# Minutes on two cores; chosen on the validation split.
_base_ = 'adamw_cosine.py'
train_cfg = dict(max_epochs=8)
optim_wrapper = dict(optimizer=dict(lr=3e-3))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.01,
        end=0.25,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        begin=0.25,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
