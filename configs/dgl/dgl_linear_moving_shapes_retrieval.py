# DGL: local and global prompts, those of the text linear in the local ones.
_base_ = '../_base_/tasks/moving_shapes_retrieval.py'
model = dict(
    backbone=dict(_delete_=True, type='DGLCLIPViT', clip={{_base_.clip_vit}}),
    text=dict(_delete_=True, type='PromptedCLIPText',
        clip={{_base_.clip_text}}, num_prompts=0),
)
