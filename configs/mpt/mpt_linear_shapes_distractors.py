# MPT on DGL-Linear, a re-implementation without public code: unverified.
_base_ = '../_base_/tasks/shapes_distractors.py'
model = dict(
    type='CLIPRecognizer',
    backbone=dict(_delete_=True, type='MPTCLIPViT', clip={{_base_.clip_vit}}),
    cls_head=dict(text=dict(_delete_=True, type='PromptedCLIPText',
        clip={{_base_.clip_text}}, num_prompts=0)),
)
