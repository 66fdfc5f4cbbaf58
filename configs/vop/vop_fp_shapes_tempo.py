# VoP^F+P: prompts by place in the video, then prompts for the whole video.
_base_ = '../_base_/tasks/shapes_tempo.py'
model = dict(
    backbone=dict(_delete_=True, type='VoPCLIPViT', clip={{_base_.clip_vit}},
        function=True, position=True, num_frames={{_base_.num_frames}}),
    cls_head=dict(text=dict(
        _delete_=True, type='PromptedCLIPText', clip={{_base_.clip_text}})),
)
