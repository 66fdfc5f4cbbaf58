"""Export trained towers, for torch.export's runtimes or as ONNX.

A graph takes any number of samples. In the graph, STOP keeps all eta prompts of a gap
and masks those that do not count. So the number of frames is fixed, and the run time
does not depend on the video.

The file holds what its user needs to know: see :func:`describe_towers`.
"""

import io
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Optional

import torch
from torch import Tensor, nn

from mmstop.towers import CLIPViT, Tower
from mmstop.version import __version__

from .model_loading import find_text_tower

__all__ = ['FORMATS', 'check_format', 'describe_towers', 'export_towers']

FORMATS = ('onnx', 'pt2')
OPSET = 18
METADATA = 'metadata.json'  # the name that .pt2 files keep it under


def check_format(form: str) -> None:
    """Check a format and that the packages it needs are installed.

    Raises:
        ValueError: the format is unknown.
        ImportError: a package is missing.
    """
    if form not in FORMATS:
        raise ValueError(f'format={form!r} is unknown; say one of {FORMATS}')
    missing = [name for name in ('onnx', 'onnxscript') if find_spec(name) is None]
    if form == 'onnx' and missing:
        raise ImportError(
            f"format='onnx' needs {' and '.join(missing)}: pip install "
            f"'mmstop[export]'; format='pt2' needs nothing"
        )


def export_towers(
    model: Any, num_frames: int, folder: Path, form: str = 'onnx'
) -> list[Path]:
    """Write the towers of a recognizer or a retriever as ``video`` and ``text`` files.

    ``video``: pixels normalised as by the config's data preprocessor, float32,
    (B, 3, T, H, W) -> ``features`` (B, E). ``text``: ``tokens``, int64, padded to the
    context length, (B, L) -> ``features`` (B, E). Features are not normalised. A model
    whose head has no text tower gives only the first file. Each file also holds its
    description from :func:`describe_towers`. ONNX stores it as metadata, one JSON value
    per key. A .pt2 file stores it as one JSON object, in the extra file
    'metadata.json'. The model is left in evaluation mode.

    Args:
        model: with a tower of this package as ``backbone``, on the CPU.
        num_frames: T, fixed in the file.
        folder: where the files go, created if necessary.
        form: 'onnx', or 'pt2' for ``torch.export.load``.
    Returns:
        the files written.

    Raises:
        ValueError: the format is unknown, or the backbone is not a tower of this
            package.
        ImportError: a package that the format needs is missing.
    """
    check_format(form)
    model.eval()
    video = _video_example(model, num_frames)
    about = describe_towers(model, num_frames)
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f'video.{form}']
    _export(model.backbone, 'video', video, files[0], about['video'])
    text = find_text_tower(model)
    if text is not None:
        files.append(folder / f'text.{form}')
        tokens = text.tokenizer(['one', 'two'], context_length=text.context_length)
        prompted = _Prompted(text, model.backbone.text_prompts())
        _export(prompted, 'tokens', tokens, files[1], about['text'])
    return files


def describe_towers(model: Any, num_frames: int) -> dict[str, dict[str, Any]]:
    """Return what the users of the exported files need to know, in JSON types.

    Both files have ``mmstop`` (the version) and ``arch`` (open_clip's name). If the
    model knows them, both also have ``temperature`` (which divides cosines before the
    softmax), ``classes`` and ``template``.

    ``video`` also has ``method``, ``num_frames``, ``size`` (height and width in pixels)
    and, if the data preprocessor normalises, ``mean`` and ``std`` of its channels (red,
    green and blue, in [0, 255]).

    ``text`` has ``context_length`` and, for a head with classes, ``class_tokens``: the
    tokens of each class's sentence, (K, L); of M templates, (M, K, L).

    Args:
        model, num_frames: those of :func:`export_towers`.
    """
    (clip,) = [m for m in model.backbone.modules() if isinstance(m, CLIPViT)]
    text = find_text_tower(model)
    head: Any = getattr(model, 'cls_head', None)
    both: dict[str, Any] = dict(mmstop=__version__)
    if text is not None:
        both['temperature'] = 1 / text.logit_scale.exp().item()
    for name in ('classes', 'template'):
        if hasattr(head, name):
            both[name] = getattr(head, name)
    video = dict(
        both,
        arch=clip.arch,
        method=type(model.backbone).__name__,
        num_frames=num_frames,
        size=list(clip.image_size),
    )
    pixels: Any = getattr(model, 'data_preprocessor', None)
    if hasattr(pixels, 'preprocessors'):  # of videos and texts
        pixels = pixels.preprocessors['imgs']
    for name in ('mean', 'std'):
        if isinstance(value := getattr(pixels, name, None), Tensor):
            video[name] = [round(x, 4) for x in value.flatten().tolist()]
    if text is None:
        return dict(video=video)
    about = dict(both, arch=text.arch, context_length=text.context_length)
    if hasattr(head, 'sentences'):
        tokens = text.tokenizer(head.sentences, context_length=text.context_length)
        if head.num_templates > 1:
            tokens = tokens.unflatten(0, (head.num_templates, -1))
        about['class_tokens'] = tokens.tolist()
    return dict(video=video, text=about)


def _video_example(model: Any, num_frames: int) -> Tensor:
    """Make two videos of the size that the video tower expects."""
    backbone = getattr(model, 'backbone', None)
    clip = [m for m in model.modules() if isinstance(m, CLIPViT)]
    if not isinstance(backbone, Tower) or not clip:
        raise ValueError(
            f'the backbone of this {type(model).__name__} is a '
            f'{type(backbone).__name__}; only towers of mmstop can be exported'
        )
    return torch.randn(2, 3, num_frames, *clip[0].image_size)


class _Prompted(nn.Module):
    """A text tower with the prompts that the video tower makes for it, if any."""

    def __init__(self, text: Tower, prompts: Optional[Tensor]) -> None:
        super().__init__()
        self.text = text
        self.register_buffer('prompts', prompts)

    def forward(self, tokens: Tensor) -> Tensor:
        if self.prompts is None:
            return self.text(tokens)
        return self.text(tokens, self.prompts)


@torch.no_grad()
def _export(
    tower: nn.Module, name: str, example: Tensor, path: Path, about: dict
) -> None:
    """Write one tower and its description, with the first axis of ``example`` dynamic.

    The file appears only when complete.
    """
    batch = torch.export.Dim('batch', min=1)
    program = torch.export.export(tower, (example,), dynamic_shapes=({0: batch},))
    part = path.with_name(f'{path.stem}.part{path.suffix}')
    try:
        if path.suffix == '.pt2':
            # On a full disk, PyTorch's own file writer would abort the process.
            extra = {METADATA: json.dumps(about)}
            torch.export.save(program, content := io.BytesIO(), extra_files=extra)
            part.write_bytes(content.getbuffer())
        else:
            _export_onnx(program, name, batch, part, about)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _export_onnx(program: Any, name: str, batch: Any, path: Path, about: dict) -> None:
    exported: Any = torch.onnx.export(
        program,
        (),
        dynamo=True,
        dynamic_shapes=({0: batch},),
        opset_version=OPSET,
        input_names=[name],
        output_names=['features'],
        custom_translation_table={torch.ops.aten.sort.stable: _stable_sort()},
        verbose=False,
    )
    exported.model.metadata_props.update(
        {key: json.dumps(value) for key, value in about.items()}
    )
    exported.save(path, external_data=False)


def _stable_sort() -> Callable:
    """Express in ONNX what PyTorch's exporter cannot: a stable sort.

    ONNX defines that for equal values, TopK puts the lower index first.
    """
    from onnxscript import opset18 as op  # an optional package

    # PyTorch would read tensor annotations as ONNX types, so there are none.
    def sort(  # type: ignore[no-untyped-def]
        x, *, stable: bool = True, dim: int = -1, descending: bool = False
    ):
        axis: Any = op.Constant(value_ints=[dim])
        length = op.Gather(op.Shape(x), axis)
        return op.TopK(x, length, axis=dim, largest=int(descending), sorted=1)

    return sort
