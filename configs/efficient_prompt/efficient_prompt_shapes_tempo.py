# Efficient Prompt: a transformer on frozen frames, prompts around the words.
# The sentences leave room for 2 prompts before the words and 2 behind.
_base_ = '../_base_/tasks/shapes_tempo.py'
model = dict(
    backbone=dict(_delete_=True, type='EfficientPromptCLIPViT',
        clip={{_base_.clip_vit}}, num_frames={{_base_.num_frames}}),
    cls_head=dict(text=dict(_delete_=True, type='EfficientPromptCLIPText',
        clip={{_base_.clip_text}}, num_prompts=2)),
)
