# MPT on DGL-Transformer, a re-implementation without public code: unverified.
_base_ = '../_base_/tasks/shapes_tempo.py'
model = dict(
    type='CLIPRecognizer',
    backbone=dict(_delete_=True, type='MPTCLIPViT', clip={{_base_.clip_vit}},
        prompter='transformer', num_frames={{_base_.num_frames}}),
    cls_head=dict(text=dict(_delete_=True, type='PromptedCLIPText',
        clip={{_base_.clip_text}}, num_prompts=0)),
)
