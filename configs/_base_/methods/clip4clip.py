# CLIP4Clip trains all of CLIP but its embeddings and the LayerNorm behind them. New
# layers would learn at 1e-4. CLIP's own learn at 1e-7, and there are no others here;
# their biases and norms have no weight decay.
trainable = 'resblocks|ln_post|ln_final|proj|logit_scale'
recipe = dict(
    optimizer=dict(lr=1e-4),
    paramwise_cfg=dict(
        custom_keys={
            '.': dict(lr_mult=1e-3),  # all names have a dot; the longest key counts
            '.ln_': dict(lr_mult=1e-3, decay_mult=0),
            'bias': dict(lr_mult=1e-3, decay_mult=0),
        }
    ),
)
