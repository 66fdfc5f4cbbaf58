# Moving Shapes with its captions, written by tools/data/moving_shapes.py.
num_frames = 6
data_root = 'data/moving_shapes'

pack = [
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='CaptionTokenize', arch='ViT-moving-shapes', max_tokens=16),
    dict(type='PackActionInputs', collect_keys=('imgs', 'text')),
]
sideways = {'left': 'right', 'right': 'left'}
upside_down = {'up': 'down', 'down': 'up', 'upper': 'lower', 'lower': 'upper'}
train_pipeline = [
    dict(type='DecordInit'),
    dict(type='UniformSample', clip_len=num_frames),
    dict(type='DecordDecode'),
    dict(type='Flip', flip_ratio=0.5),
    dict(type='MirrorCaption', words=sideways),
    dict(type='Flip', flip_ratio=0.5, direction='vertical'),
    dict(type='MirrorCaption', words=upside_down),
    *pack,
]
val_pipeline = [
    dict(type='DecordInit'),
    dict(type='UniformSample', clip_len=num_frames, test_mode=True),
    dict(type='DecordDecode'),
    *pack,
]

data_prefix = dict(video='videos')
train_dataloader = dict(
    batch_size=64,  # the negatives are those of the batch
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='VideoCaptionDataset',
        data_root=data_root,
        ann_file='train.json',
        data_prefix=data_prefix,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='VideoCaptionDataset',
        data_root=data_root,
        ann_file='val.json',
        data_prefix=data_prefix,
        pipeline=val_pipeline,
        test_mode=True,
    ),
)
# Two hundred captions that all differ; unseen_gallery.json has shapes in colours that
# never occur in training.
test_dataset = dict(val_dataloader['dataset'], ann_file='test_gallery.json')
test_dataloader = dict(val_dataloader, dataset=test_dataset)

val_evaluator = dict(type='VideoTextRetrieval')
test_evaluator = val_evaluator
