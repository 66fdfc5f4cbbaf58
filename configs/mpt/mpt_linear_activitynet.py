# MPT on DGL-Linear, a re-implementation without public code: unverified.
_base_ = '../_base_/tasks/activitynet.py'
model = dict(
    backbone=dict(_delete_=True, type='MPTCLIPViT', clip={{_base_.clip_vit}}),
    text=dict(_delete_=True, type='PromptedCLIPText',
        clip={{_base_.clip_text}}, num_prompts=0),
)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
