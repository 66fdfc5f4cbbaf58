# Tempo, written by tools/data/harder_shapes.py.
_base_ = 'moving_shapes.py'
data_root = 'data/shapes_tempo'
classes = 'shapes_tempo'
train_pipeline = [  # mirrored videos keep their labels
    dict(type='CheckedDecordInit'),
    dict(type='UniformSample', clip_len={{_base_.num_frames}}),
    dict(type='DecordDecode'),
    dict(type='Flip', flip_ratio=0.5),
    dict(type='Flip', flip_ratio=0.5, direction='vertical'),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
_in_root = dict(dataset=dict(data_root=data_root))
train_dataloader = dict(dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = _in_root
test_dataloader = _in_root
del _in_root
