# DiDeMo, one paragraph per video.
_base_ = 'paragraph_retrieval.py'
data_root = 'data/video_retrieval/didemo'

train_dataloader = dict(dataset=dict(data_root=data_root, ann_file='train.json'))
val_dataloader = dict(dataset=dict(data_root=data_root, ann_file='val.json'))
test_dataloader = dict(dataset=dict(data_root=data_root, ann_file='test.json'))
