# Minutes of video and a paragraph of text: 64 frames and 64 tokens, as in the authors'
# script for ActivityNet. In the paper (Sec. 4.3) both are 64 for all datasets except
# MSR-VTT and VATEX. If 16 such videos do not fit on a GPU, set clip.checkpoint=True.
_base_ = 'retrieval.py'
num_frames = 64
max_tokens = 64

tokenize = dict(type='CaptionTokenize', max_tokens=max_tokens)
train_pipeline = [
    _base_.read,
    dict(type='UniformSample', clip_len=num_frames),
    *_base_.crop,
    tokenize,
    _base_.pack,
]
val_pipeline = [
    _base_.read,
    dict(type='UniformSample', clip_len=num_frames, test_mode=True),
    *_base_.crop,
    tokenize,
    _base_.pack,
]

train_dataloader = dict(
    batch_size=16,  # 8 GPUs -> 128
    dataset=dict(pipeline=train_pipeline),
)
val_dataloader = dict(batch_size=8, dataset=dict(pipeline=val_pipeline))
test_dataloader = val_dataloader
