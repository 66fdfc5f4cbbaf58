# Visual Prompt Tuning: static prompts in every block, a baseline of the paper.
_base_ = '../_base_/tasks/shapes_distractors.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='DeepPromptCLIPViT',
        clip={{_base_.clip_vit}},
        num_prompts=20,
    )
)
