_base_ = [
    '_base_/models/moving_shapes_retriever.py',
    '_base_/datasets/moving_shapes_retrieval.py',
    '_base_/schedules/moving_shapes_retrieval.py',
    '_base_/retrieval_runtime.py',
]
# Prompts at the input only: README and docs report these.
model = dict(
    backbone=dict(
        _delete_=True, type='STOPCLIPViT', clip={{_base_.clip_vit}}, depth=1
    )
)
