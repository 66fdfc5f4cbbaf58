# DGL: local and global prompts, those of the text linear in the local ones.
_base_ = '../_base_/tasks/shapes_distractors.py'
model = dict(
    type='CLIPRecognizer',
    backbone=dict(_delete_=True, type='DGLCLIPViT', clip={{_base_.clip_vit}}),
    cls_head=dict(text=dict(_delete_=True, type='PromptedCLIPText',
        clip={{_base_.clip_text}}, num_prompts=0)),
)
