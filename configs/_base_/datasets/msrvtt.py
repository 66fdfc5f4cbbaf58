# MSR-VTT, training split of 9,000 videos; the 1,000 test pairs are 1k-A (JSFusion).
# There is no validation split, so the test split selects the best checkpoint, as usual;
# val_from_train=0.1 selects it on videos held out of the training split instead.
_base_ = 'retrieval.py'
data_root = 'data/video_retrieval/msrvtt'

train_dataloader = dict(dataset=dict(data_root=data_root, ann_file='train_9k.json'))
val_dataloader = dict(dataset=dict(data_root=data_root, ann_file='test_JSFUSION.json'))
test_dataloader = val_dataloader
