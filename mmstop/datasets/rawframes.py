"""Videos extracted into folders of images, as by MMAction2's scripts."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmaction.datasets.transforms import RawFrameDecode
from mmengine.fileio import get_file_backend
from PIL import Image, ImageOps

from mmstop.errors import ConfigError, VideoError, typed
from mmstop.registry import DATASETS, TRANSFORMS

from .annotations import load_frame_labels
from .video_datasets import CheckedDataset

__all__ = ['CheckedRawFrameDecode', 'CheckedRawframeDataset', 'Frames', 'check_frames']

CHUNK, SAMPLE = 32, 12  # check_frames: frames held at a time, and frames sampled


class Frames(NamedTuple):
    """Which files of a folder are the frames of a video."""

    total_frames: int
    start_index: int
    filename_tmpl: str

    def name(self, number: int) -> str:
        return self.filename_tmpl.format(number)

    def numbers_among(self, names: Sequence[str]) -> list[int]:
        """Return the frame numbers of the files that are frames of a video."""
        before, after = (
            self.filename_tmpl.split('{')[0],
            self.filename_tmpl.split('}')[-1],
        )
        digits = [name[len(before) : len(name) - len(after)] for name in names]
        numbers = {int(part) for part in digits if part.isdecimal()}
        return sorted(n for n in numbers if self.name(n) in names)


@DATASETS.register_module()
class CheckedRawframeDataset(CheckedDataset):
    """Read extracted frames from a list, as MMAction2's ``RawframeDataset`` does.

    In its pipeline, ``CheckedRawFrameDecode`` replaces the steps that open and decode a
    video.

    Args:
        ann_file: path of the list, relative to ``data_root``. Each line has a folder,
            its number of frames and a label, or several labels with
            ``multi_class=True``.
        delimiter: separator between the fields.
        filename_tmpl: template that gives a frame's file name from its number.
        start_index: number of the first frame, at least 0.
        **kwargs: arguments of :class:`CheckedDataset` and of MMAction2's
            ``BaseActionDataset``: ``on_error``, ``pipeline``, ``data_root``,
            ``data_prefix=dict(img=...)``, ``test_mode``, ``multi_class``, ...

    Raises:
        ConfigError: an argument is out of range.
        FileNotFoundError: there is no such list.
        AnnotationError: the list or one of its lines is invalid.
    """

    @typed
    def __init__(
        self,
        ann_file: str,
        delimiter: str = ' ',
        filename_tmpl: str = 'img_{:05}.jpg',
        start_index: int = 1,
        **kwargs: Any,
    ) -> None:
        if start_index < 0:
            raise ConfigError(f'start_index={start_index}, expected at least 0')
        if not _has_number(filename_tmpl):
            raise ConfigError(
                f'filename_tmpl={filename_tmpl!r}, expected a name with one '
                f"placeholder for the frame number, such as 'img_{{:05}}.jpg'"
            )
        if 'img' not in kwargs.get('data_prefix', {'img': ''}):
            raise ConfigError(
                f'data_prefix={kwargs["data_prefix"]}, expected the folder of the '
                f'extracted frames as dict(img=...)'
            )
        self.delimiter = delimiter
        self.filename_tmpl = filename_tmpl
        super().__init__(ann_file, start_index=start_index, **kwargs)

    def load_data_list(self) -> list[dict]:
        """List the folders in file order."""
        root = self.data_prefix.get('img', '')
        return [
            dict(
                filename=str(Path(root, folder)),
                name=folder,
                frame_dir=str(Path(root, folder)),
                filename_tmpl=self.filename_tmpl,
                total_frames=total_frames,
                label=label,
                line=line,
            )
            for folder, total_frames, label, line in load_frame_labels(
                self.ann_file, self.delimiter, self.multi_class, self.test_mode
            )
        ]


def _has_number(template: str) -> bool:
    try:
        return template.format(1) != template.format(2)
    except (IndexError, KeyError, ValueError):
        return False


@TRANSFORMS.register_module()
class CheckedRawFrameDecode(RawFrameDecode):
    """Read frames as MMAction2's ``RawFrameDecode`` does, but reject damaged ones.

    It is an error if the folder lacks the first or the last of the frames that the list
    declares. It is also an error if a frame is missing, truncated or not an image, has
    more than 8 bits per channel, or differs in size from the others of its clip.

    Args:
        **kwargs: ``io_backend`` and the arguments of that backend.

    Raises:
        VideoError: on use, if the folder or a frame is invalid.
    """

    def transform(self, results: dict) -> dict:
        """Read the frames ``results['frame_inds']``: (H, W, 3), uint8, RGB, each."""
        frames = Frames(*(results[name] for name in Frames._fields))
        folder = results['frame_dir']
        name = 'local' if self.io_backend == 'disk' else self.io_backend
        backend = get_file_backend(backend_args=dict(backend=name, **self.kwargs))
        _check_folder(folder, frames, backend)
        numbers = np.ravel(results['frame_inds'])
        read = {n: _read(folder, frames.name(n), backend) for n in np.unique(numbers)}
        results['imgs'] = [np.array(read[n]) for n in numbers]  # writable copies
        results['original_shape'] = results['img_shape'] = results['imgs'][0].shape[:2]
        first = numbers[0]
        for number, picture in read.items():
            if picture.size != read[first].size:
                raise VideoError(
                    f'{frames.name(number)} has {_size(picture)} pixels and '
                    f'{frames.name(first)} {_size(read[first])}'
                )
        return results


def _size(picture: Image.Image) -> str:
    return f'{picture.width} x {picture.height}'


def _check_folder(folder: str, frames: Frames, backend: Any) -> None:
    """Check that the first and the last frame exist.

    Raises:
        VideoError: one of them is missing.
    """
    total, first, _ = frames
    ends = [
        backend.join_path(folder, frames.name(n)) for n in (first, first + total - 1)
    ]
    if all(backend.isfile(path) for path in ends):
        return
    if not backend.isdir(folder):
        raise VideoError('there is no such folder')
    names = sorted(backend.list_dir_or_file(folder, list_dir=False))
    numbers = frames.numbers_among(names)
    if not numbers:
        others = f'{len(names)} others, such as {names[0]!r}' if names else 'no file'
        raise VideoError(
            f'it has no frame such as {frames.name(first)!r}, but {others}; set '
            f'filename_tmpl in the dataset, or extract the frames again'
        )
    remedy = 'extract the frames again, or correct the list'
    if len(numbers) >= total and numbers[0] != first:
        remedy = f'set start_index={numbers[0]} in the dataset'
    raise VideoError(
        f'the list says {total} frames, {first} to {first + total - 1}, and the folder '
        f'has {len(numbers)}, {numbers[0]} to {numbers[-1]}; {remedy}'
    )


def _read(folder: str, name: str, backend: Any) -> Image.Image:
    """Read an image as upright RGB.

    Raises:
        VideoError: it is missing, or not a complete 8-bit image.
    """
    path = backend.join_path(folder, name)
    if not backend.isfile(path):
        raise VideoError(f'{name} is missing')
    try:
        picture = Image.open(io.BytesIO(backend.get(path)))
        picture.load()
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's, for damaged files
        raise VideoError(f'{name} is not a complete image ({error})') from None
    if picture.mode[0] in 'IF':  # these become white in RGB
        raise VideoError(f'{name} has more than 8 bits per channel')
    return ImageOps.exif_transpose(picture).convert('RGB')


def check_frames(folder: str, frames: Frames, full: bool) -> None:
    """Read a few or all frames of a folder on disk.

    Raises:
        VideoError: the folder or a frame is invalid.
    """
    total, first, _ = frames
    chosen = np.arange(total)
    if not full:
        chosen = np.linspace(0, total - 1, SAMPLE).round().astype(int)
    for start in range(0, len(chosen), CHUNK):
        results = dict(frames._asdict(), frame_dir=folder)
        results['frame_inds'] = first + chosen[start : start + CHUNK]
        CheckedRawFrameDecode().transform(results)
