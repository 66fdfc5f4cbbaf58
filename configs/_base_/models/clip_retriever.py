# Frozen CLIP for videos and captions, the base model of all retrieval configs.
clip_vit = dict(type='CLIPViT', arch='ViT-B-32-quickgelu', weights='openai')
clip_text = dict(type='CLIPText', arch='ViT-B-32-quickgelu', weights='openai')
model = dict(
    type='CLIPRetriever',
    backbone=clip_vit,
    text=clip_text,
    data_preprocessor=dict(
        type='MultiModalDataPreprocessor',
        preprocessors=dict(
            imgs=dict(
                type='ActionDataPreprocessor',
                mean=[122.771, 116.746, 104.094],  # CLIP's, in [0, 255]
                std=[68.501, 66.632, 70.323],
                format_shape='NCTHW',
            ),
            text=dict(type='CaptionPreprocessor'),
        ),
    ),
)
