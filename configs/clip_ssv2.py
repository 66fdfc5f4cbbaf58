# Zero-shot: nothing is trained, and tools/test.py needs no checkpoint.
_base_ = [
    '_base_/models/clip_recognizer.py',
    '_base_/datasets/ssv2.py',
    '_base_/default_runtime.py',
]
model = dict(cls_head=dict(classes={{_base_.classes}}))
train_dataloader = None
