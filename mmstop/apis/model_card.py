"""The model card of a published model, as the Hugging Face hub shows it."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from mmengine.config import Config

from mmstop.config import datasets

__all__ = ['write_card']

CARD = """\
---
{front}
---

# {name}

{model} on top of a frozen CLIP, for {task}, trained with
mmstop {version}. The folder holds what was trained and no code.

## Use

```python
from mmstop.apis import VideoCLIP

clip = VideoCLIP.from_pretrained('OWNER/NAME')  # or the path of this folder
{use}
```

## Weights

| file or tower | weights | SHA-256 |
| --- | --- | --- |
{digests}

CLIP's weights are not in this folder. `from_pretrained` downloads them, or takes the
file that `weights=` names, and refuses a CLIP with another digest.

## Data

| split | data set |
| --- | --- |
{data}

## Metrics

{metrics}

## Commands

    python tools/train.py {config}{options}
    python tools/test.py {config} {checkpoint}{options}
"""


CLASSIFY = "clip.classify('mine/*.mp4')"
EMBED = "scores = clip.encode_video('mine/*.mp4') @ clip.encode_text(['a dog']).T"


def write_card(
    cfg: Config,
    checkpoint: Path,
    content: dict[str, Any],
    licence: str,
    metrics: dict[str, float],
    options: dict[str, Any],
) -> str:
    """Return the text of README.md.

    Args:
        cfg: the config that the model was trained with.
        checkpoint: its file.
        content: that of config.json.
        licence, metrics, options: as for :func:`publish`.
    """
    recognizes = 'cls_head' in cfg.model
    name = Path(cfg.filename or 'model').stem
    method = content['model']['backbone']['type']
    given = [f'{key}={_without_folders(value)}' for key, value in options.items()]
    front = ModelCardData(
        license=licence,
        library_name='mmstop',
        pipeline_tag='video-classification' if recognizes else 'feature-extraction',
        metrics=['accuracy' if recognizes else 'recall'],
        tags=['video', 'clip', method],
    )
    return CARD.format(
        front=front.to_yaml(),
        name=name,
        model=method,
        task='action recognition' if recognizes else 'text-video retrieval',
        version=content['mmstop'],
        use=CLASSIFY if recognizes else EMBED,
        digests='\n'.join(_list_digests(content)),
        data='\n'.join(_list_data(cfg)),
        metrics=_list_metrics(metrics),
        config=_without_folders(cfg.filename or 'CONFIG'),
        checkpoint=checkpoint.name,
        options=' --cfg-options ' * bool(options) + ' '.join(given),
    )


def _list_digests(content: dict[str, Any]) -> list[str]:
    rows = [('`model.safetensors`', 'trained', content['sha256'])]
    for tower, frozen in content['meta']['frozen'].items():
        rows.append((f'frozen CLIP, `{tower}`', frozen['weights'], frozen['sha256']))
    return [f'| {part} | {weights} | `{digest}` |' for part, weights, digest in rows]


def _list_data(cfg: Config) -> list[str]:
    rows = []
    for split, name in (('train', 'training'), ('val', 'validation'), ('test', 'test')):
        for part in datasets(cfg, split):
            path = Path(part.node.get('data_root') or '', part.node['ann_file'])
            share = part.node.get('val_from_train')
            note = f', `val_from_train={share}`' if share else ''
            rows.append(f'| {name} | `{_without_folders(path)}`{note} |')
    return rows


def _without_folders(path: Any) -> str:
    """Keep the folders of others out of the card, unless they are relative."""
    return Path(path).name if str(path).startswith('/') else str(path)


def _list_metrics(metrics: dict[str, float]) -> str:
    if not metrics:
        return 'None were given.'
    rows = [f'| {name} | {value:.4g} |' for name, value in metrics.items()]
    return '\n'.join(['| metric | test split |', '| --- | --- |', *rows])
