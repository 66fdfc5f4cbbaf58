# Moving Shapes, written by tools/data/moving_shapes.py.
num_frames = 8
data_root = 'data/moving_shapes'
classes = 'moving_shapes'

decode = [dict(type='DecordInit'), dict(type='DecordDecode')]
pack = [
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
train_pipeline = [
    decode[0],
    dict(type='UniformSample', clip_len=num_frames),
    decode[1],
    *pack,
]
val_pipeline = [
    decode[0],
    dict(type='UniformSample', clip_len=num_frames, test_mode=True),
    decode[1],
    *pack,
]

data_prefix = dict(video='videos')
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='VideoDataset',
        data_root=data_root,
        ann_file='train.txt',
        data_prefix=data_prefix,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='VideoDataset',
        data_root=data_root,
        ann_file='val.txt',
        data_prefix=data_prefix,
        pipeline=val_pipeline,
        test_mode=True,
    ),
)
test_dataloader = dict(
    val_dataloader, dataset=dict(val_dataloader['dataset'], ann_file='test.txt')
)

val_evaluator = dict(type='AccMetric')
test_evaluator = val_evaluator
