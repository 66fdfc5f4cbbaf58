# Distractors, written by tools/data/harder_shapes.py.
_base_ = 'moving_shapes.py'
data_root = 'data/shapes_distractors'
_in_root = dict(dataset=dict(data_root=data_root))
train_dataloader = _in_root
val_dataloader = _in_root
test_dataloader = _in_root
del _in_root
