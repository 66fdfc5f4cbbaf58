# DiDeMo, a paragraph a video.
_base_ = 'paragraph_retrieval.py'
data_root = 'data/video_retrieval/didemo'

train_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file='train.json',
        data_prefix=dict(video='videos'),
    )
)
val_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file='val.json',
        data_prefix=dict(video='videos'),
    )
)
test_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file='test.json',
        data_prefix=dict(video='videos'),
    )
)
