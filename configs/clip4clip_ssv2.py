# CLIP4Clip's full fine-tuning: all of CLIP but its three embeddings.
_base_ = [
    '_base_/models/clip_recognizer.py',
    '_base_/datasets/ssv2.py',
    '_base_/schedules/adamw_cosine.py',
    '_base_/default_runtime.py',
]
trainable = '^(?!.*(conv1|token_embedding|positional_embedding))'
model = dict(
    backbone=dict(trainable=trainable),
    cls_head=dict(classes={{_base_.classes}}, text=dict(trainable=trainable)),
)
optim_wrapper = dict(optimizer=dict(lr=1e-5))  # CLIP's weights move little
