# VoP^F+C: prompts from the frames' CLS, then prompts for the whole video.
_base_ = '../_base_/tasks/shapes_tempo.py'
model = dict(
    backbone=dict(_delete_=True, type='VoPCLIPViT', clip={{_base_.clip_vit}},
        function=True, context=True),
    cls_head=dict(text=dict(
        _delete_=True, type='PromptedCLIPText', clip={{_base_.clip_text}})),
)
