# The tiny CLIP that comes with the package and knows still frames only.
_base_ = 'clip_recognizer.py'
clip_vit = dict(arch='ViT-moving-shapes', weights='mmstop')
clip_text = clip_vit
model = dict(
    backbone=clip_vit,
    cls_head=dict(text=clip_text, template='a video of a shape {}'),
)
