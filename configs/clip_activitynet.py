# Zero-shot: nothing is trained, and tools/test.py needs no checkpoint.
_base_ = [
    '_base_/models/clip_retriever.py',
    '_base_/datasets/activitynet.py',
    '_base_/retrieval_runtime.py',
]
train_dataloader = None
