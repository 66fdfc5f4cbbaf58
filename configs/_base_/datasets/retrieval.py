# Settings for all retrieval datasets. Frames are cropped as CLIP's images were: the
# short side is 224, and the centre of the long side is kept.
num_frames = 12
max_tokens = 32
image_size = 224

# Frames are resized while they are decoded, to the same size that Resize gives.
read = dict(type='CheckedDecordInit', short_side=image_size, interpolation='bicubic')
crop = [
    dict(type='DecordDecode'),
    dict(type='Resize', scale=(-1, image_size), interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=image_size),
    dict(type='FormatShape', input_format='NCTHW'),
]
pack = dict(type='PackActionInputs', collect_keys=('imgs', 'text'))
train_pipeline = [
    read,
    dict(type='UniformSample', clip_len=num_frames),
    *crop,
    dict(type='CaptionTokenize', max_tokens=max_tokens),
    pack,
]
val_pipeline = [
    read,
    dict(type='UniformSample', clip_len=num_frames, test_mode=True),
    *crop,
    dict(type='CaptionTokenize', max_tokens=max_tokens),
    pack,
]

train_dataloader = dict(
    batch_size=16,  # 8 GPUs -> 128
    num_workers=8,
    persistent_workers=False,  # workers are reseeded every epoch, see ReseedHook
    worker_init_fn=dict(type='seed_worker'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='VideoCaptionDataset',
        data_prefix=dict(video='videos'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=8,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='VideoCaptionDataset',
        data_prefix=dict(video='videos'),
        pipeline=val_pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type='VideoTextRetrieval')
test_evaluator = val_evaluator
