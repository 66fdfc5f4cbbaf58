# Static deep prompts, a baseline of the paper.
_base_ = [
    '_base_/models/clip_recognizer.py',
    '_base_/datasets/ucf101.py',
    '_base_/schedules/adamw_cosine.py',
    '_base_/default_runtime.py',
]
model = dict(
    backbone=dict(_delete_=True, type='DeepPromptCLIPViT', clip={{_base_.clip_vit}}),
    cls_head=dict(classes={{_base_.classes}}),
)
