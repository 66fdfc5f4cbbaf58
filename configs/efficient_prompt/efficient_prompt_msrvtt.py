# Efficient Prompt: a transformer on frozen frames, prompts around the words.
_base_ = '../_base_/tasks/msrvtt.py'
model = dict(
    backbone=dict(_delete_=True, type='EfficientPromptCLIPViT',
        clip={{_base_.clip_vit}}, num_frames={{_base_.num_frames}}),
    text=dict(_delete_=True, type='EfficientPromptCLIPText', clip={{_base_.clip_text}}),
)
