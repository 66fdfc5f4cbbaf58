# Kinetics-600 as MMAction2 prepares it, with the class file from there. As in the
# literature, the validation split is used for testing.
_base_ = 'recognition.py'
classes = 'data/kinetics600/label_map_k600.txt'

train_dataloader = dict(
    dataset=dict(
        ann_file='data/kinetics600/kinetics600_train_list_videos.txt',
        data_prefix=dict(video='data/kinetics600/videos_train'),
    )
)
val_dataloader = dict(
    dataset=dict(
        ann_file='data/kinetics600/kinetics600_val_list_videos.txt',
        data_prefix=dict(video='data/kinetics600/videos_val'),
    )
)
test_dataloader = val_dataloader
