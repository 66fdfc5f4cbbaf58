# CLIP4Clip: fine-tuning of all of CLIP except its three embeddings.
_base_ = [
    '_base_/models/clip_recognizer.py',
    '_base_/datasets/hmdb51.py',
    '_base_/schedules/adamw_cosine.py',
    '_base_/default_runtime.py',
]
trainable = '^(?!.*(conv1|token_embedding|positional_embedding))'
model = dict(
    backbone=dict(trainable=trainable),
    cls_head=dict(classes={{_base_.classes}}, text=dict(trainable=trainable)),
)
optim_wrapper = dict(optimizer=dict(lr=1e-5))  # low, to keep CLIP's weights close
