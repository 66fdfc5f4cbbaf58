# Kinetics-400 as MMAction2 prepares it, with the class file from there. As in the
# literature, the validation split is used for testing.
_base_ = 'recognition.py'
classes = 'data/kinetics400/label_map_k400.txt'

train_dataloader = dict(
    dataset=dict(
        ann_file='data/kinetics400/kinetics400_train_list_videos.txt',
        data_prefix=dict(video='data/kinetics400/videos_train'),
    )
)
val_dataloader = dict(
    dataset=dict(
        ann_file='data/kinetics400/kinetics400_val_list_videos.txt',
        data_prefix=dict(video='data/kinetics400/videos_val'),
    )
)
test_dataloader = val_dataloader
