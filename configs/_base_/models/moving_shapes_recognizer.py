# The tiny CLIP that ships with the package, pre-trained on still frames only.
_base_ = 'clip_recognizer.py'
clip_vit = dict(arch='ViT-moving-shapes', weights='mmstop')
clip_text = clip_vit
model = dict(
    backbone=clip_vit,
    cls_head=dict(text=clip_text, template='a video of a shape {}'),
)
