# UPT: one transformer block makes the prompts of both towers.
_base_ = '../_base_/tasks/shapes_tempo.py'
model = dict(
    type='CLIPRecognizer',
    backbone=dict(_delete_=True, type='UPTCLIPViT', clip={{_base_.clip_vit}},
        num_frames={{_base_.num_frames}}),
    cls_head=dict(text=dict(_delete_=True, type='PromptedCLIPText',
        clip={{_base_.clip_text}}, num_prompts=0)),
)
