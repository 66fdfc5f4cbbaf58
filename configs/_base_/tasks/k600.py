_base_ = [
    '../models/clip_recognizer.py',
    '../datasets/k600.py',
    '../schedules/adamw_cosine.py',
    '../default_runtime.py',
]
model = dict(cls_head=dict(classes={{_base_.classes}}))
