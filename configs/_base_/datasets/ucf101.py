# UCF101 as MMAction2 prepares it, split 1 of 3.
_base_ = 'recognition.py'
classes = 'ucf101'

data_prefix = dict(video='data/ucf101/videos')
train_dataloader = dict(
    dataset=dict(
        ann_file='data/ucf101/ucf101_train_split_1_videos.txt',
        data_prefix=data_prefix,
    )
)
val_dataloader = dict(
    dataset=dict(
        ann_file='data/ucf101/ucf101_val_split_1_videos.txt', data_prefix=data_prefix
    )
)
test_dataloader = val_dataloader
