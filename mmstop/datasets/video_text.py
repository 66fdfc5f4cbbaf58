"""A dataset of videos with captions."""

from pathlib import Path

from mmstop.registry import DATASETS

from .captions import load_captions
from .checked import CheckedDataset

__all__ = ['VideoCaptionDataset']


@DATASETS.register_module()
class VideoCaptionDataset(CheckedDataset):
    """Read videos and captions from ``{"video7.mp4": ["a caption", ...], ...}``.

    In training, an item is one caption with its video, so a video with twenty captions
    gives twenty items. In testing (``test_mode=True``), an item is one video with all
    its captions, so each video is decoded and encoded once. The pipeline receives
    ``filename``, ``video_id`` (the name in the file) and ``text``: one caption, or in
    testing the list of captions.

    Args:
        ann_file: path of the annotation file, relative to ``data_root``.
        **kwargs: arguments of :class:`CheckedDataset` and of MMAction2's
            ``BaseActionDataset``: ``on_error``, ``pipeline``, ``data_root``,
            ``data_prefix=dict(video=...)``, ``test_mode``, ...

    Raises:
        FileNotFoundError: there is no such annotation file.
        AnnotationError: the file or one of its entries is invalid.
    """

    def load_data_list(self) -> list[dict]:
        """List the items in file order."""
        folder = self.data_prefix.get('video', '')
        items = []
        for name, captions in load_captions(self.ann_file).items():
            video = dict(filename=str(Path(folder, name)), video_id=name)
            texts = [captions] if self.test_mode else captions
            items += [dict(video, text=text) for text in texts]
        return items

    def entry(self, info: dict) -> str:
        return f'entry {info["video_id"]!r}'
