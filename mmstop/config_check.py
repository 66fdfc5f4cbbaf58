"""Check a config that a user wrote, before anything is built.

MMEngine finds a mistyped argument only when it builds the part, and a missing
annotation file only after it has built the model. It never finds towers that do not
belong together. These checks read the signatures of the classes that a config names,
and the lists of videos.
"""

import difflib
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Optional

import open_clip
from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint

from mmstop.architectures import image_size, resolve_arch
from mmstop.compat import read_structure
from mmstop.config import datasets, output_size
from mmstop.config_parts import (
    DICTS,
    RESERVED,
    RUNNER_KEYS,
    SPLITS,
    Part,
    pipelines,
    suggest,
    towers,
    walk,
)
from mmstop.datasets import (
    AnnotationError,
    VideoCaptionDataset,
    VideoError,
    load_classes,
)
from mmstop.datasets.listing import RAWFRAMES, Listed, Listing
from mmstop.errors import CheckpointError, ConfigError
from mmstop.towers import CLIPText

__all__ = ['check_config', 'check_towers', 'listings']

SCALARS = (str, int, float)  # not a dict; not None either, which removes a part
LOOKED_FOR = 16  # videos per list; checking all takes minutes on a network disk

# Places where a dict without a type is always a mistake.
TYPED = re.compile(
    r'^(default_hooks|custom_hooks)\.[^.]+$|\.pipeline\.\d+$|\.(dataset|optimizer)$'
    r'|^model(\.(backbone|cls_head|clip|text))*$'
)
RANDOM = {'ColorJitter', 'ImgAug', 'MultiScaleCrop', 'PytorchVideoWrapper',
          'RandAugment'}  # fmt: skip


def check_config(cfg: Config, splits: Sequence[str]) -> None:
    """Check the types, arguments and files of a config without building anything.

    Args:
        cfg: the config as it will run.
        splits: the splits whose files to look for, from 'train', 'val' and 'test'.

    Raises:
        ConfigError: the first fault found.
    """
    for key in set(cfg) - RUNNER_KEYS:
        if near := difflib.get_close_matches(key, RUNNER_KEYS, n=1, cutoff=0.9):
            raise ConfigError(
                f'{key}: nothing reads this key; did you mean {near[0]!r}?'
            )
    for part in walk(cfg):
        if not part.path or part.path.split('.')[0] in RUNNER_KEYS:
            _check_keys(part)
    check_towers(cfg)
    _check_agreement(cfg)
    _check_checkpoint(cfg)
    lists = {
        split: [(part, _check_list(cfg, split, part)) for part in listings(cfg, split)]
        for split in splits
    }
    if train := lists.pop('train', None):
        held_out = [pair for pairs in lists.values() for pair in pairs]
        if 'test' not in splits:  # then its files need not be there
            held_out += [(part, _read(part)) for part in _present(cfg, 'test')]
        _check_leaks(train, held_out)


# --- Keys ---------------------------------------------------------------------------


def _check_keys(part: Part) -> None:
    """Check the keys of a dict, and that its values are dicts where they must be."""
    if 'type' not in part.node and TYPED.search(part.path):
        keys = ', '.join(map(str, part.node))
        raise ConfigError(f"{part.path} has no 'type'; its keys are {keys}")
    names = part.arguments()
    for key, value in part.node.items():
        path = f'{part.path}.{key}'.lstrip('.')
        if names is not None and key not in names | RESERVED:
            owner = part.kind or part.path
            raise ConfigError(f'{path}: {owner} takes no {key!r}{suggest(key, names)}')
        if isinstance(value, SCALARS) and (path in DICTS or TYPED.search(path)):
            raise ConfigError(
                f'{path} is {value!r}, expected a dict, or a list of dicts'
            )


# --- Towers and pipelines -----------------------------------------------------------


def check_towers(cfg: Config) -> None:
    """Reject towers from different CLIP models: their embeddings are not comparable.

    Random weights do not count as a different CLIP: they serve as a control.

    Raises:
        ConfigError: two towers differ in architecture or weights.
    """
    found = list(_towers(cfg))
    for key in ('arch', 'weights'):
        given = [tower for tower in found if tower.node.get(key) is not None]
        for tower in given[1:]:
            one, other = given[0].node[key], tower.node[key]
            if _clip(one) != _clip(other):
                raise ConfigError(
                    f'{given[0].path}.{key}={one!r} and {tower.path}.{key}={other!r} '
                    f'are two CLIPs, whose embeddings cannot be compared; set both '
                    f'with --cfg-options {_option(cfg, key, one)} or '
                    f'{_option(cfg, key, other)}'
                )


def _towers(cfg: Config) -> Iterator[Part]:
    return (tower for tower in towers(cfg) if tower.path.startswith('model.'))


def _clip(name: Any) -> Any:
    """Name an architecture: the file ViT-tiny.json defines one called ViT-tiny."""
    is_arch = isinstance(name, str) and name.endswith('.json')
    return Path(name).stem if is_arch else name


def _option(cfg: Config, key: str, value: Any) -> str:
    """Format the options that set the architecture or weights of all towers."""
    sizes = {output_size(steps) for _, steps in _read_pipelines(cfg)} - {None}
    if key == 'arch' and isinstance(value, str) and sizes:
        size = image_size(value)
        return f'arch={value}{f" image_size={size[0]}" if sizes != {size} else ""}'
    return f'{key}={value}'


def _read_pipelines(cfg: Config) -> list[tuple[str, list[dict]]]:
    """Return the pipelines of the data loaders and where they are."""
    starts = tuple(f'{split}_dataloader.' for split in SPLITS)
    return [(path, steps) for path, steps in pipelines(cfg) if path.startswith(starts)]


def _check_agreement(cfg: Config) -> None:
    """Compare the steps of each pipeline with each other and with the towers."""
    # A tower itself reports an architecture that is no string.
    found = [tower for tower in _towers(cfg) if isinstance(tower.node['arch'], str)]
    for path, steps in _read_pipelines(cfg):
        _check_sizes(path, steps)
        for tower in found:
            check = _check_tokens if tower.is_a(CLIPText) else _check_frames
            check(tower, path, steps)
    _warn_of_random_tests(cfg)


def _check_frames(tower: Part, path: str, steps: list[dict]) -> None:
    for i, step in enumerate(steps):
        if step.get('input_format') == 'NCHW':
            raise ConfigError(
                f"{path}.{i}.input_format is 'NCHW', which makes every frame an image "
                f"of its own; set it to 'NCTHW', and data_preprocessor.format_shape "
                f'as well'
            )
    size, found = image_size(tower.node['arch']), output_size(steps)
    if found is not None and found != size:
        raise ConfigError(
            f'{path} makes frames of {found[0]} x {found[1]} pixels, '
            f'{tower.path}.arch={tower.node["arch"]!r} takes {size[0]} x {size[1]}; '
            f'set all pipelines with --cfg-options image_size={size[0]}'
        )


def _check_tokens(tower: Part, path: str, steps: list[dict]) -> None:
    for i, step in enumerate(steps):
        arch = step.get('arch', 'ViT-B-32-quickgelu')
        if Part('', step).kind == 'CaptionTokenize' and isinstance(arch, str):
            if _tokenizer(arch) != _tokenizer(tower.node['arch']):
                raise ConfigError(
                    f'{path}.{i}.arch={arch!r} has another tokenizer than '
                    f'{tower.path}.arch={tower.node["arch"]!r}; set all with '
                    f'--cfg-options arch={tower.node["arch"]}'
                )


def _tokenizer(arch: str) -> tuple[Any, Any]:
    """Return what identifies an architecture's tokenizer."""
    model: Any = open_clip.get_model_config(resolve_arch(arch))
    text = model['text_cfg']
    return text.get('hf_tokenizer_name'), text.get('vocab_size', 49408)


def _check_sizes(path: str, steps: list[dict]) -> None:
    """Reject steps that shrink frames in one way, then resize them in another."""
    read = next((step for step in steps if step.get('short_side')), None)
    resize = next((s for s in steps if str(s.get('type')).endswith('Resize')), None)
    if read is None or resize is None:
        return
    asked = (-1, read['short_side']), read.get('interpolation', 'bilinear'), True
    scale, how = resize.get('scale'), resize.get('interpolation', 'bilinear')
    scale = tuple(scale) if isinstance(scale, (list, tuple)) else scale
    if (scale, how, resize.get('keep_ratio', True)) != asked:
        raise ConfigError(
            f'{path}: frames are made small for Resize(scale={asked[0]}, '
            f'interpolation={asked[1]!r}), and it has scale={scale}, '
            f'interpolation={how!r}; give short_side and interpolation of '
            f'CheckedDecordInit the same values, or leave them out'
        )


def _warn_of_random_tests(cfg: Config) -> None:
    found: dict[str, list[str]] = {}  # step -> places
    for part in walk(cfg):
        if re.match(r'(val|test)_dataloader\..*pipeline\.', part.path):
            if _is_random(part):
                found.setdefault(part.kind, []).append(part.path)
    for step, places in found.items():
        warnings.warn(
            f'{" and ".join(places)}: {step} is random, so the same video is tested '
            f'differently each time; leave it out, or give it test_mode=True if it '
            f'samples frames',
            stacklevel=4,
        )


def _is_random(step: Part) -> bool:
    if step.kind == 'Flip':
        return 0 < step.node.get('flip_ratio', 0.5) < 1
    if 'Sample' in step.kind:
        samples = 'test_mode' in (step.arguments() or set())
        return samples and not step.node.get('test_mode')
    return step.kind.startswith('Random') or step.kind in RANDOM


# --- Files --------------------------------------------------------------------------


def _is_local(*paths: str) -> bool:
    """Tell paths from URLs such as 's3://...'; a single letter is a Windows drive."""
    return not any(re.match(r'[\w-]{2,}:', path) for path in paths)


def _check_checkpoint(cfg: Config) -> None:
    """Read the contents of a checkpoint except for the numbers, which is fast."""
    path, resume = cfg.get('load_from'), bool(cfg.get('resume'))
    if resume and path is None and cfg.get('work_dir'):
        path = find_latest_checkpoint(cfg.work_dir)
    if path is None or not _is_local(path):
        return
    if Path(path).is_dir():
        raise ConfigError(f'checkpoint {path!r} is a folder; name a file in it')
    if not Path(path).is_file():
        raise ConfigError(f'checkpoint {path!r}: there is no such file')
    try:
        content = read_structure(path)
    except CheckpointError as error:
        raise ConfigError(f'checkpoint {error}') from None
    if not isinstance(content, dict):
        raise ConfigError(
            f'checkpoint {path!r} holds a {type(content).__name__}, expected a dict of '
            f"named tensors; save it as torch.save({{'state_dict': ...}}, path)"
        )
    if resume and not {'meta', 'message_hub'} <= content.keys():
        raise ConfigError(
            f'checkpoint {path!r} holds weights only, no run to resume; to start a new '
            f'one from them say load_from={path!r} and resume=False'
        )


def listings(cfg: Config, split: str) -> Iterator[Listing]:
    """Find the data sets of a split whose annotation files are on a local disk.

    Raises:
        ConfigError: an annotation file or folder does not exist.
    """
    for part in datasets(cfg, split):
        if listing := _find_listing(part):
            yield listing


def _present(cfg: Config, split: str) -> Iterator[Listing]:
    """Find the data sets of a split whose files exist."""
    for part in datasets(cfg, split):
        with suppress(ConfigError):
            if listing := _find_listing(part):
                yield listing


def _find_listing(part: Part) -> Optional[Listing]:
    prefixes = part.node.get('data_prefix') or {}
    if not isinstance(prefixes, dict):
        raise ConfigError(
            f'{part.path}.data_prefix is {prefixes!r}, expected a dict such as '
            f'dict(video={prefixes!r})'
        )
    data_root, ann_file = part.node.get('data_root') or '', part.node['ann_file']
    files = {'ann_file': ann_file}
    files |= {f'data_prefix.{key}': prefix for key, prefix in prefixes.items()}
    for key, name in files.items():
        path, is_file = Path(data_root, name), key == 'ann_file'
        there = path.is_file() if is_file else path.is_dir()
        if name and _is_local(data_root, name) and not there:
            raise ConfigError(
                f'{part.path}.{key}: there is no {"file" if is_file else "folder"} '
                f"'{path}'; prepare the data set (tools/data), or change "
                f'{part.path}.ann_file, data_root or data_prefix (data_root is '
                f'{data_root!r})'
            )
    prefix = prefixes.get('img' if part.is_a(*RAWFRAMES) else 'video', '')
    if not ann_file or not _is_local(data_root, ann_file, prefix):
        return None
    paths = Path(data_root, ann_file), Path(data_root, prefix)
    return Listing(part.path, part.node, part.target(), *paths)


# --- Lists --------------------------------------------------------------------------


Videos = Optional[list[Listed]]  # None if the format of the list is unknown


def _read(listing: Listing) -> Videos:
    try:
        return listing.videos()
    except AnnotationError as error:
        raise ConfigError(f'{listing.where}: {error}') from error


def _check_list(cfg: Config, split: str, listing: Listing) -> Videos:
    """Read the annotation file of a data set and look for some of its videos."""
    videos = _read(listing)
    if videos is None:
        return None
    labelled = [video for video in videos if video.labels]
    if any(label != -1 for video in labelled for label in video.labels):
        _check_classes(cfg, listing, labelled)
    elif not listing.is_a(VideoCaptionDataset):
        _check_unlabelled(cfg, split, listing)
    _look_for(listing, videos)
    return videos


def _check_leaks(
    train: Sequence[tuple[Listing, Videos]], held_out: Sequence[tuple[Listing, Videos]]
) -> None:
    """Reject training videos that are also listed for validation or testing.

    Videos are the same if their normalised paths are. ViFi-CLIP's 16-shot lists, for
    example, share 233 videos with the second test split of HMDB51.
    """
    for other, kept in held_out:
        entries = {os.path.abspath(video.path): video.entry for video in kept or ()}
        for own, videos in train:
            if _share_a_list(own, other):
                continue
            shared = [v for v in videos or () if os.path.abspath(v.path) in entries]
            if shared:
                path, entry = shared[0].path, shared[0].entry
                raise ConfigError(
                    f'{own.where}: {path!r} (entry {entry!r} of {own.ann_file}) is '
                    f'also in {other.ann_file} (entry '
                    f'{entries[os.path.abspath(path)]!r}), the list of {other.where}; '
                    f'{len(shared):,} training videos are; remove them from one of '
                    f'the lists, or test on videos that were not trained on'
                )


def _share_a_list(train: Listing, val: Listing) -> bool:
    """Tell whether ``val_from_train`` parts a list between two data sets."""
    share = train.node.get('val_from_train')
    same = (val.ann_file, val.node.get('val_from_train')) == (train.ann_file, share)
    return bool(share and same and val.node.get('test_mode'))


def _check_unlabelled(cfg: Config, split: str, listing: Listing) -> None:
    """Reject evaluation on a list without labels, where every prediction is wrong."""
    paths = re.compile(rf'{split}_evaluator(\.metrics)?(\.\d+)?$')
    metrics = {part.kind for part in walk(cfg) if paths.match(part.path)}
    if metrics := metrics - {'', 'DumpResults', 'Evaluator'}:
        raise ConfigError(
            f'{listing.where}: {listing.ann_file} has no labels, so that '
            f'{", ".join(sorted(metrics))} would find every prediction wrong; add a '
            f'label to each line, or only predict: tools/test.py ... --dump FILE.pkl '
            f'--cfg-options test_evaluator=[]'
        )


def _check_classes(cfg: Config, listing: Listing, videos: list[Listed]) -> None:
    """Compare the labels of a list with the classes of the model, if both exist."""
    num_classes = _num_classes(cfg)
    if num_classes is None:
        return
    own = listing.node.get('num_classes')
    if listing.node.get('multi_class') and own != num_classes:
        raise ConfigError(
            f'{listing.where}.num_classes is {own}, but the model has {num_classes} '
            f'classes; set it to {num_classes}'
        )
    last = max(videos, key=lambda video: max(video.labels))
    labels = {label for video in videos for label in video.labels}
    if max(labels) >= num_classes:
        raise ConfigError(
            f'{listing.where}: line {last.entry} of {listing.ann_file} has the label '
            f'{max(labels)} ({last.path!r}), but the model has {num_classes} classes, '
            f'from 0 to {num_classes - 1}. Correct the line, count labels from 0, or '
            f'give the model the classes of this data set'
        )
    # A test list may lack a class by chance, but is unlikely to lack only the first.
    few = num_classes - len(labels) <= max(1, num_classes // 10)
    training = not listing.node.get('test_mode')
    if min(labels) > 0 and num_classes > 2 and (training or few):
        raise ConfigError(
            f'{listing.where}: {listing.ann_file} has labels from {min(labels)} to '
            f'{max(labels)} and none is 0; they seem to be counted from 1: subtract 1 '
            f'from each, or, if class 0 has no video, take it out of the classes'
        )
    if training and max(labels) < num_classes - 1:
        warnings.warn(
            f'{listing.ann_file}: the highest label is {max(labels)}, but the model '
            f'has {num_classes} classes; are they the classes of this data set?',
            stacklevel=2,
        )


def _num_classes(cfg: Config) -> Optional[int]:
    head = (cfg.get('model') or {}).get('cls_head') or {}
    if 'classes' not in head:
        return head.get('num_classes')
    try:
        return len(load_classes(head['classes']))
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(f'model.cls_head.classes: {error}') from None


def _look_for(listing: Listing, videos: list[Listed]) -> None:
    """Look for a few videos across the list, so that a wrong folder shows at once."""
    skips = listing.node.get('on_error') == 'skip'
    some = videos[:: max(1, len(videos) // LOOKED_FOR)]
    missing = [video for video in some if not Path(video.path).exists()]
    if len(missing) > (len(some) - 1 if skips else 0):
        path, entry, _, frames = missing[0]
        what = 'file' if frames is None else 'folder'
        raise ConfigError(
            f'{listing.where}: there is no {what} {path!r} (entry {entry!r} of '
            f'{listing.ann_file}); {len(missing)} of {len(some)} {what}s looked for '
            f'are missing. Correct data_root or data_prefix, or complete the data set; '
            f'tools/analysis/check_videos.py finds all such videos'
        )
    if some[0].frames is not None and not skips:  # so that a wrong file name shows
        try:
            some[0].check(full=False)
        except VideoError as error:
            raise ConfigError(
                f'{listing.where}: {some[0].path} (line {some[0].entry} of '
                f'{listing.ann_file}): {error}'
            ) from None
