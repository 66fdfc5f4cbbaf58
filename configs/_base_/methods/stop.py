# Spatial prompts change the differences that the temporal ones are made of. They learn
# at a lower rate, so that they do not outrun them. docs/ablations.md compares.
recipe = dict(
    paramwise_cfg=dict(custom_keys={'spatial.prompter': dict(lr_mult=0.3)})
)
