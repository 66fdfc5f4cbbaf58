# Something-Something V2 as MMAction2 prepares it. Its test labels are not public, so
# the validation split is used for testing.
_base_ = 'recognition.py'
classes = 'ssv2'

# Mirroring swaps these classes, since it swaps left and right.
flip_label_map = {86: 87, 87: 86, 93: 94, 94: 93, 166: 167, 167: 166}
train_pipeline = [
    *_base_.load_train,
    dict(type='Flip', flip_ratio=0.5, flip_label_map=flip_label_map),
    *_base_.pack,
]

data_prefix = dict(video='data/sthv2/videos')
train_dataloader = dict(
    dataset=dict(
        ann_file='data/sthv2/sthv2_train_list_videos.txt',
        data_prefix=data_prefix,
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(
        ann_file='data/sthv2/sthv2_val_list_videos.txt', data_prefix=data_prefix
    )
)
test_dataloader = val_dataloader
