# VATEX with HGR's splits (Chen et al., CVPR 2020): 1,500 videos each in val and test.
_base_ = 'retrieval.py'
data_root = 'data/video_retrieval/vatex'

train_dataloader = dict(dataset=dict(data_root=data_root, ann_file='train.json'))
val_dataloader = dict(dataset=dict(data_root=data_root, ann_file='val.json'))
test_dataloader = dict(dataset=dict(data_root=data_root, ann_file='test.json'))
