# Negatives that differ in motion alone are few in a batch, so this takes longer.
_base_ = 'moving_shapes.py'
train_cfg = dict(max_epochs=12)
