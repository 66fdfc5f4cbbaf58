# Efficient Prompt: a transformer on frozen frames, prompts around the words.
# 64 tokens leave room for 6 prompts before the words and 6 behind.
_base_ = '../_base_/tasks/activitynet.py'
model = dict(
    backbone=dict(_delete_=True, type='EfficientPromptCLIPViT',
        clip={{_base_.clip_vit}}, num_frames={{_base_.num_frames}}),
    text=dict(_delete_=True, type='EfficientPromptCLIPText',
        clip={{_base_.clip_text}}, num_prompts=6),
)
