# Moving Shapes, written by tools/data/moving_shapes.py.
num_frames = 6
data_root = 'data/moving_shapes'
classes = 'moving_shapes'

# Labels of the mirrored motions: left and right are swapped, or up and down.
left_right = {0: 4, 4: 0, 1: 3, 3: 1, 5: 7, 7: 5}
up_down = {1: 7, 7: 1, 2: 6, 6: 2, 3: 5, 5: 3}

pack = [
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]
train_pipeline = [
    dict(type='CheckedDecordInit'),
    dict(type='UniformSample', clip_len=num_frames),
    dict(type='DecordDecode'),
    dict(type='Flip', flip_ratio=0.5, flip_label_map=left_right),
    dict(
        type='Flip', flip_ratio=0.5, direction='vertical', flip_label_map=up_down
    ),
    *pack,
]
val_pipeline = [
    dict(type='CheckedDecordInit'),
    dict(type='UniformSample', clip_len=num_frames, test_mode=True),
    dict(type='DecordDecode'),
    *pack,
]
test_pipeline = val_pipeline  # used by MMAction2's inference_recognizer

data_prefix = dict(video='videos')
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='CheckedVideoDataset',
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
        type='CheckedVideoDataset',
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
