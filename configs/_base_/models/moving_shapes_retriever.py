# The tiny CLIP that ships with the package, pre-trained on still frames only.
_base_ = 'clip_retriever.py'
clip_vit = dict(arch='ViT-moving-shapes', weights='mmstop')
clip_text = clip_vit
model = dict(backbone=clip_vit, text=clip_text)
