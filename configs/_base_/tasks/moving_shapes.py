_base_ = [
    '../models/moving_shapes_recognizer.py',
    '../datasets/moving_shapes.py',
    '../schedules/moving_shapes.py',
    '../default_runtime.py',
]
model = dict(cls_head=dict(classes={{_base_.classes}}))
