"""What the names of the configs stand for: methods, their papers, and data sets."""

from typing import NamedTuple


class Collection(NamedTuple):
    name: str
    method: str
    title: str
    url: str


# By the name of a config without its data set.
COLLECTIONS = {
    'adapter_attn': Collection(
        'AdapterATTN',
        'bottlenecks beside the attention',
        'Towards a Unified View of Parameter-Efficient Transfer Learning',
        'https://arxiv.org/abs/2110.04366',
    ),
    'adapter_ffn': Collection(
        'AdapterFFN',
        'bottlenecks beside the MLP',
        'AdaptFormer: Adapting Vision Transformers for Scalable Visual Recognition',
        'https://arxiv.org/abs/2205.13535',
    ),
    'aim': Collection(
        'AIM',
        'attention over time, bottlenecks',
        'AIM: Adapting Image Models for Efficient Video Action Recognition',
        'https://arxiv.org/abs/2302.03024',
    ),
    'bias': Collection(
        'Bias',
        'fine-tuning of biases',
        'BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked '
        'Language-models',
        'https://arxiv.org/abs/2106.10199',
    ),
    'clip': Collection(
        'CLIP',
        'frozen CLIP, zero-shot',
        'Learning Transferable Visual Models From Natural Language Supervision',
        'https://arxiv.org/abs/2103.00020',
    ),
    'clip4clip': Collection(
        'CLIP4Clip',
        'full fine-tuning, mean pooling',
        'CLIP4Clip: An Empirical Study of CLIP for End to End Video Clip Retrieval',
        'https://arxiv.org/abs/2104.08860',
    ),
    **{
        f'dgl_{kind}': Collection(
            f'DGL-{kind.title()}',
            f'global and local prompts, {kind}',
            'DGL: Dynamic Global-Local Prompt Tuning for Text-Video Retrieval',
            'https://arxiv.org/abs/2401.10588',
        )
        for kind in ('linear', 'transformer')
    },
    'efficient_prompt': Collection(
        'Efficient Prompt',
        'transformer on frozen frames, prompts around the words',
        'Prompting Visual-Language Models for Efficient Video Understanding',
        'https://arxiv.org/abs/2112.04478',
    ),
    'lora': Collection(
        'LoRA',
        'low-rank updates of q, k and v',
        'LoRA: Low-Rank Adaptation of Large Language Models',
        'https://arxiv.org/abs/2106.09685',
    ),
    **{
        f'mpt_{kind}': Collection(
            f'MPT-{kind.title()}',
            f'spatial, temporal and global prompts, {kind}; unverified',
            'MPT: Multi-grained Prompt Tuning for Text-Video Retrieval',
            'https://openreview.net/forum?id=sIwZ6TIn0P',
        )
        for kind in ('linear', 'transformer')
    },
    'upt': Collection(
        'UPT',
        'prompts of both towers from one transformer block',
        'Unified Vision and Language Prompt Learning',
        'https://arxiv.org/abs/2210.07225',
    ),
    **{
        config: Collection(
            name,
            method,
            'VoP: Text-Video Co-operative Prompt Tuning for Cross-Modal Retrieval',
            'https://arxiv.org/abs/2211.12764',
        )
        for config, name, method in (
            ('vop', 'VoP', 'prompts in both towers'),
            ('vop_fc', 'VoP^F+C', 'prompts from the frames, then for the video'),
            ('vop_fp', 'VoP^F+P', 'prompts by position, then for the video'),
        )
    },
    'discovla': Collection(
        'DiscoVLA',
        'DiscoVLA without pseudo captions',
        'DiscoVLA: Discrepancy Reduction in Vision, Language, and Alignment '
        'for Parameter-Efficient Video-Text Retrieval',
        'https://arxiv.org/abs/2506.08887',
    ),
    'tempme': Collection(
        'TempMe',
        'token merging over time, LoRA',
        'TempMe: Video Temporal Token Merging for Efficient Text-Video Retrieval',
        'https://arxiv.org/abs/2409.01156',
    ),
    'unipt': Collection(
        'UniPT',
        'a network beside frozen towers',
        'UniPT: Universal Parallel Tuning for Transfer Learning with '
        'Efficient Parameter and Memory',
        'https://arxiv.org/abs/2308.14316',
    ),
    'vpt': Collection(
        'VPT',
        'VPT, static deep prompts',
        'Visual Prompt Tuning',
        'https://arxiv.org/abs/2203.12119',
    ),
    'stop': Collection(
        'STOP',
        'STOP',
        'STOP: Integrated Spatial-Temporal Dynamic Prompting for Video Understanding',
        'https://arxiv.org/abs/2503.15973',
    ),
    'video_text_adapter': Collection(
        'Video-Text Adapter',
        'convolutions over space and time in bottlenecks',
        'ST-Adapter: Parameter-Efficient Image-to-Video Transfer Learning',
        'https://arxiv.org/abs/2206.13559',
    ),
    'visual_text_adapter': Collection(
        'Visual-Text Adapter',
        'bottlenecks behind the MLP',
        'Parameter-Efficient Transfer Learning for NLP',
        'https://arxiv.org/abs/1902.00751',
    ),
}
AUTHORS = "with the authors' settings"  # see docs/authors.md
DATA_SETS = {
    'activitynet': 'ActivityNet Captions',
    'activitynet_authors': f'ActivityNet Captions, {AUTHORS}',
    'didemo': 'DiDeMo',
    'didemo_authors': f'DiDeMo, {AUTHORS}',
    'hmdb51': 'HMDB51',
    'hmdb51_split2': 'HMDB51, split 2',
    'hmdb51_split3': 'HMDB51, split 3',
    'k400': 'Kinetics-400',
    'k600': 'Kinetics-600',
    'moving_shapes': 'Moving Shapes',
    'moving_shapes_retrieval': 'Moving Shapes, captions',
    'msrvtt': 'MSR-VTT 1k-A',
    'msrvtt_authors': f'MSR-VTT 1k-A, {AUTHORS}',
    'shapes_distractors': 'Distractors',
    'shapes_tempo': 'Tempo',
    'ssv2': 'Something-Something V2',
    'ucf101': 'UCF101',
    'ucf101_split2': 'UCF101, split 2',
    'ucf101_split3': 'UCF101, split 3',
    'vatex': 'VATEX',
    'vatex_authors': f'VATEX, {AUTHORS}',
}
