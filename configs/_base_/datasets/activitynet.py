# ActivityNet Captions, a paragraph a video; val_1 is tested and, as usual, chooses the
# best checkpoint.
_base_ = 'paragraph_retrieval.py'
data_root = 'data/video_retrieval/activitynet'

train_dataloader = dict(dataset=dict(data_root=data_root, ann_file='train.json'))
val_dataloader = dict(dataset=dict(data_root=data_root, ann_file='val_1.json'))
test_dataloader = val_dataloader
