# DGL: local and global prompts, made with the text's by a transformer block.
_base_ = '../_base_/tasks/didemo.py'
model = dict(
    backbone=dict(_delete_=True, type='DGLCLIPViT', clip={{_base_.clip_vit}},
        prompter='transformer', num_frames={{_base_.num_frames}}),
    text=dict(_delete_=True, type='PromptedCLIPText',
        clip={{_base_.clip_text}}, num_prompts=0),
)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
