_base_ = '../_base_/tasks/vatex.py'
trainable = r'\.bias$'  # of all layers but the attention's q, k and v
model = dict(
    backbone=dict(trainable=trainable),
    text=dict(trainable=trainable),
)
