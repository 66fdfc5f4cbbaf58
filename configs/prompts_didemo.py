# Static deep prompts, a baseline of the paper.
_base_ = [
    '_base_/models/clip_retriever.py',
    '_base_/datasets/didemo.py',
    '_base_/schedules/paragraph_retrieval.py',
    '_base_/retrieval_runtime.py',
]
model = dict(
    backbone=dict(_delete_=True, type='DeepPromptCLIPViT', clip={{_base_.clip_vit}})
)
