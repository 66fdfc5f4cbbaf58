# Moving Shapes with its captions, written by tools/data/moving_shapes.py.
_base_ = 'moving_shapes.py'

pack = [
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='CaptionTokenize', arch='ViT-moving-shapes', max_tokens=16),
    dict(type='PackActionInputs', collect_keys=('imgs', 'text')),
]
sideways = {'left': 'right', 'right': 'left'}
upside_down = {'up': 'down', 'down': 'up', 'upper': 'lower', 'lower': 'upper'}
train_pipeline = [
    dict(type='CheckedDecordInit'),
    dict(type='UniformSample', clip_len={{_base_.num_frames}}),
    dict(type='DecordDecode'),
    dict(type='Flip', flip_ratio=0.5),
    dict(type='MirrorCaption', words=sideways),
    dict(type='Flip', flip_ratio=0.5, direction='vertical'),
    dict(type='MirrorCaption', words=upside_down),
    *pack,
]
val_pipeline = [
    dict(type='CheckedDecordInit'),
    dict(type='UniformSample', clip_len={{_base_.num_frames}}, test_mode=True),
    dict(type='DecordDecode'),
    *pack,
]
test_pipeline = val_pipeline

train_dataloader = dict(
    batch_size=64,  # the negatives come from the batch
    dataset=dict(
        type='VideoCaptionDataset', ann_file='train.json', pipeline=train_pipeline
    ),
)
val_dataset = dict(
    type='VideoCaptionDataset', ann_file='val.json', pipeline=val_pipeline
)
val_dataloader = dict(batch_size=64, dataset=val_dataset)
# Two hundred distinct captions. unseen_gallery.json has combinations of shape and
# colour that never occur in training.
test_dataset = dict(val_dataset, ann_file='test_gallery.json')
test_dataloader = dict(batch_size=64, dataset=test_dataset)

val_evaluator = dict(type='VideoTextRetrieval')
test_evaluator = val_evaluator
