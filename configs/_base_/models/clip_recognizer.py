# Frozen CLIP with one sentence per class, the base model of all recognition configs.
clip_vit = dict(type='CLIPViT', arch='ViT-B-32-quickgelu', weights='openai')
clip_text = dict(type='CLIPText', arch='ViT-B-32-quickgelu', weights='openai')
model = dict(
    type='Recognizer3D',
    backbone=clip_vit,
    cls_head=dict(type='CLIPTextHead', text=clip_text, average_clips='prob'),
    data_preprocessor=dict(
        type='ActionDataPreprocessor',
        mean=[122.771, 116.746, 104.094],  # CLIP's, in [0, 255]
        std=[68.501, 66.632, 70.323],
        format_shape='NCTHW',
    ),
)
