"""Read exactly the requested frames of a video.

A frame's number is its index among all frames that decoding from the start presents,
in order, none dropped and none repeated. If a file's packets prove that seeking is safe
(``packets.py``), decoding starts at the last packet that gives the same picture, and
the timestamps of all decoded frames are compared with the expected ones. Any other file
is decoded from the start.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Optional, Union

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from mmstop.errors import VideoError

from .packets import PacketIndex, identify, index_packets
from .video_stream import VideoStream, cause, too_large, upright

__all__ = ['MAX_PIXELS', 'VideoFile']

MAX_PIXELS = 2**25  # per frame, enough for 8K (7,680 x 4,320)
HELD = 2**27  # bytes of decoded frames to keep when all must be decoded anyway


class VideoFile:
    """A video's exact frames by number, in presentation order, upright, RGB.

    Frames that differ in size from the first are scaled to its size.

    Args:
        source: path, or the content of a file.
        max_pixels: maximum pixels per frame, checked before a frame is allocated.
        num_threads: threads of the decoder.

    Raises:
        VideoError: there is no video in it, or it is damaged or too large.
    """

    def __init__(
        self,
        source: Union[str, io.BytesIO],
        max_pixels: int = MAX_PIXELS,
        num_threads: int = 1,
    ) -> None:
        self._source = source
        self._max_pixels = max_pixels
        self._num_threads = num_threads
        self._reformatter = VideoReformatter()
        self._held: list[av.VideoFrame] = []
        video = self._open()
        self.fps = video.fps
        self._size = video.width, video.height
        self._index = index_packets(
            video.container.format.name, video.context, video.packets()
        )
        self._count = len(self._index.frames) if self._index else self._decode_all()

    def __len__(self) -> int:
        return self._count

    @cached_property
    def height(self) -> int:
        """Height of the upright frames."""
        return self.frames([0]).shape[1]

    @cached_property
    def width(self) -> int:
        """Width of the upright frames."""
        return self.frames([0]).shape[2]

    def frames(
        self,
        numbers: Union[Sequence[int], np.ndarray],
        change: Callable[[np.ndarray], np.ndarray] = lambda picture: picture,
    ) -> np.ndarray:
        """Decode frames: (n, H, W, 3), uint8, RGB.

        Args:
            numbers: at least one frame number, in any order; repeats are allowed.
            change: function applied to each frame (H, W, 3) before the next one is
                converted.

        Raises:
            VideoError: there is no such frame, or it cannot be decoded.
        """
        rows: dict[int, list[int]] = {}
        for row, number in enumerate(numbers):
            if not 0 <= number < len(self):
                raise VideoError(f'it has {len(self)} frames, but no number {number}')
            rows.setdefault(int(number), []).append(row)
        out: Optional[np.ndarray] = None
        for number, frame in self._decode(sorted(rows)):
            picture = change(self._convert(frame))
            if out is None:
                out = np.empty((len(numbers), *picture.shape), np.uint8)
            out[rows[number]] = picture
        assert out is not None
        return out

    def check(self) -> None:
        """Decode all frames strictly.

        Raises:
            VideoError: data is damaged, or the frames do not match the packets.
        """
        times = [frame.pts for frame in self._open(strict=True).frames()]
        if len(times) != len(self):
            raise VideoError(f'{len(self)} frames are stored, {len(times)} come out')
        if self._index and times != [self._index.pts[i] for i in self._index.frames]:
            raise VideoError('decoded frames have other timestamps than the packets')

    def close(self) -> None:
        self._opened.close()

    def __del__(self) -> None:
        if hasattr(self, '_opened'):
            self.close()

    def _open(self, strict: bool = False) -> VideoStream:
        """Reopen the file, at its start."""
        if hasattr(self, '_opened'):
            self.close()
        self._opened = VideoStream(
            self._source, self._max_pixels, self._num_threads, strict
        )
        return self._opened

    # --- All frames, from the start ---------------------------------------------------

    def _decode_all(self) -> int:
        """Count the frames by decoding them, and keep them if they are few."""
        count = size = 0
        for frame in self._open().frames():
            if not count:
                self._size = frame.width, frame.height
            count += 1
            size += sum(plane.buffer_size for plane in frame.planes)
            if size <= HELD:
                self._held.append(frame)
            else:
                self._held.clear()
        if not count:
            raise VideoError('there is no frame in it')
        return count

    def _decode_from_start(self, numbers: list[int]) -> Iterator[tuple]:
        wanted, damaged = set(numbers), False
        for number, frame in enumerate(self._held or self._open().frames()):
            # FFmpeg marks frames that it repaired, but not those predicted from them.
            damaged = frame.is_corrupt or (damaged and not frame.key_frame)
            if number in wanted:
                if damaged:
                    raise VideoError(
                        f'frame {number} is damaged, or one that it depends on'
                    )
                yield number, frame
            if number == numbers[-1]:
                return
        raise VideoError(f'it had {len(self)} frames; fewer come out now')

    # --- Some frames ------------------------------------------------------------------

    def _decode(self, numbers: list[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decode frames by ascending number; a frame may be yielded again on retry."""
        if self._index is None:
            yield from self._decode_from_start(numbers)
            return
        groups: dict[int, list[int]] = {}
        for number in numbers:
            groups.setdefault(self._index.entry(number), []).append(number)
        for entry, group in groups.items():
            try:
                yield from self._decode_group(entry, group, self._index)
                continue
            except (av.FFmpegError, _Astray):
                pass
            try:  # again from the start, without skipping packets
                yield from self._decode_group(0, group, self._index, entry)
            except (av.FFmpegError, _Astray) as error:
                raise VideoError(
                    f'not all frames up to {group[-1]} can be decoded ({cause(error)})'
                ) from None

    def _decode_group(
        self,
        entry: int,
        group: list[int],
        index: PacketIndex,
        needed: Optional[int] = None,
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decode frames from a packet on, and compare all of them with the index.

        Args:
            entry: place of the packet in the index.
            group: ascending numbers of frames.
            needed: place before which frames may be damaged, since none of the group
                refers to them. With None, packets are skipped that are not requested
                and that no other frame refers to.

        Raises:
            _Astray: unexpected or damaged frames come out, or unexpected packets are
                read.
        """
        wanted = {index.frames[number]: number for number in group}
        last, start = max(wanted), index.pts[entry]
        sent = {
            i
            for i in range(entry, last + 1)
            if i in wanted or not (needed is None and index.spare[i])
        }
        shown = (i for i in sent if index.shown[i] and index.pts[i] >= start)
        coming = iter(sorted(shown, key=index.pts.__getitem__))
        for frame in self._pictures(entry, last, sent, index):
            if frame.pts is not None and frame.pts < start:
                continue  # a frame of the previous group, whose references are missing
            place = next(coming, None)
            if place is None or frame.pts != index.pts[place]:
                raise _Astray(f'an unexpected frame has the time stamp {frame.pts}')
            if frame.is_corrupt and place >= (needed or entry):
                raise _Astray(f'the one with the time stamp {frame.pts} is damaged')
            if place in wanted:
                yield wanted[place], frame
        if (place := next(coming, None)) is not None:
            raise _Astray(f'none with the time stamp {index.pts[place]} comes out')

    def _pictures(
        self, entry: int, last: int, sent: set[int], index: PacketIndex
    ) -> Iterator[av.VideoFrame]:
        """Decode the packets ``sent``, which lie between ``entry`` and ``last``."""
        for i, packet in self._packets_from(entry, index):
            if i in sent:
                yield from packet.decode()  # type: ignore[misc]
            if i == last:
                yield from self._opened.context.decode(None)
                return
        raise _Astray(f'there are only {i} packets')

    def _packets_from(
        self, place: int, index: PacketIndex
    ) -> Iterator[tuple[int, av.Packet]]:
        """Read packets from a place on, and compare each of them with the index."""
        for packets in self._seek(index.ids[place]):
            first = next(packets, None)
            i = index.places.get(identify(first), len(index.ids)) if first else place
            if first and i <= place:
                break
        while first:
            if i >= len(index.ids) or identify(first) != index.ids[i]:
                raise _Astray(f'packet {i} is not the one that was there before')
            if i >= place:
                yield i, first
            first, i = next(packets, None), i + 1

    def _seek(self, target: tuple) -> Iterator[Iterator[av.Packet]]:
        """Seek to a packet or an earlier one: by either timestamp, or to the start."""
        for time in target[:2]:
            if time is not None:
                with suppress(av.FFmpegError):
                    self._opened.container.seek(time, stream=self._opened.stream)
                yield self._opened.packets()
        yield self._open().packets()

    def _convert(self, frame: av.VideoFrame) -> np.ndarray:
        """Convert a decoded frame: (H, W, 3), uint8, RGB, upright."""
        if frame.width * frame.height > self._max_pixels:
            raise too_large(frame.width, frame.height, self._max_pixels)
        rgb = self._reformatter.reformat(frame, *self._size, 'rgb24', threads=1)
        return upright(rgb.to_ndarray(), frame)


class _Astray(Exception):
    """The decoder's output does not match the index."""
