# A small network beside each frozen tower, which reads its hidden states.
_base_ = '../_base_/tasks/shapes_distractors.py'
model = dict(
    backbone=dict(_delete_=True, type='UniPT', clip={{_base_.clip_vit}}),
    cls_head=dict(text=dict(_delete_=True, type='UniPT', clip={{_base_.clip_text}})),
)
