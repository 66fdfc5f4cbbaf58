# Zero-shot: nothing is trained, and tools/test.py needs no checkpoint.
_base_ = [
    '_base_/models/moving_shapes_retriever.py',
    '_base_/datasets/moving_shapes_retrieval.py',
    '_base_/retrieval_runtime.py',
]
train_dataloader = None
