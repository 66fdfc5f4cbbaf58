# CLIP4Clip: fine-tuning of all of CLIP except its three embeddings.
_base_ = [
    '_base_/models/moving_shapes_retriever.py',
    '_base_/datasets/moving_shapes_retrieval.py',
    '_base_/schedules/moving_shapes_retrieval.py',
    '_base_/retrieval_runtime.py',
]
trainable = '^(?!.*(conv1|token_embedding|positional_embedding))'
model = dict(backbone=dict(trainable=trainable), text=dict(trainable=trainable))
optim_wrapper = dict(optimizer=dict(lr=1e-5))  # low, to keep CLIP's weights close
