# CLIP4Clip: fine-tuning of all of CLIP except its three embeddings.
_base_ = [
    '_base_/models/clip_retriever.py',
    '_base_/datasets/msrvtt.py',
    '_base_/schedules/retrieval.py',
    '_base_/retrieval_runtime.py',
]
trainable = '^(?!.*(conv1|token_embedding|positional_embedding))'
model = dict(backbone=dict(trainable=trainable), text=dict(trainable=trainable))
optim_wrapper = dict(optimizer=dict(lr=1e-5))  # low, to keep CLIP's weights close
