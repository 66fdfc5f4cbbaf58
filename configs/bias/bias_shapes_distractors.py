_base_ = '../_base_/tasks/shapes_distractors.py'
trainable = r'\.bias$'  # of all layers but the attention's q, k and v
model = dict(
    backbone=dict(trainable=trainable),
    cls_head=dict(text=dict(trainable=trainable)),
)
