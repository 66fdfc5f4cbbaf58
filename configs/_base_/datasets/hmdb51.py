# HMDB51 as MMAction2 prepares it, split 1 of 3.
_base_ = 'recognition.py'
classes = 'hmdb51'

data_prefix = dict(video='data/hmdb51/videos')
train_dataloader = dict(
    dataset=dict(
        ann_file='data/hmdb51/hmdb51_train_split_1_videos.txt',
        data_prefix=data_prefix,
    )
)
val_dataloader = dict(
    dataset=dict(
        ann_file='data/hmdb51/hmdb51_val_split_1_videos.txt', data_prefix=data_prefix
    )
)
test_dataloader = val_dataloader
