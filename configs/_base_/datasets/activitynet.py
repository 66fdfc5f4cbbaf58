# ActivityNet Captions, one paragraph per video. As usual, val_1 is the test split and
# also selects the best checkpoint; val_from_train=0.1 takes training videos for that.
_base_ = 'paragraph_retrieval.py'
data_root = 'data/video_retrieval/activitynet'

train_dataloader = dict(dataset=dict(data_root=data_root, ann_file='train.json'))
val_dataloader = dict(dataset=dict(data_root=data_root, ann_file='val_1.json'))
test_dataloader = val_dataloader
