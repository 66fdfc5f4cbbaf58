# A batch has few negatives that differ only in motion, so training takes longer.
_base_ = 'moving_shapes.py'
train_cfg = dict(max_epochs=12)
