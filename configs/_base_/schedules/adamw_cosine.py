# The optimizer, warm-up over a tenth of all steps and cosine decay follow the authors'
# scripts for MSR-VTT and ActivityNet, which train in mixed precision (`--amp`) with a
# global batch of 128. For recognition the authors publish neither these settings nor
# the number of epochs. The 30 epochs and the gradient clipping are our own, untuned.
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=30, val_interval=1)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(
        type='AdamW', lr=1e-3, weight_decay=0.2, betas=(0.9, 0.98), eps=1e-6
    ),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.01,
        end=3,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        begin=3,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(enable=False, base_batch_size=128)  # 8 GPUs x 16 videos
