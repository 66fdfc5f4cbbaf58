"""Read exactly the frames of a video that were asked for.

A frame's number is its place among all frames that decoding from the start presents, in
order, none dropped and none repeated. Where a file's packets prove it (``packets.py``),
a frame is decoded from the last place from which that gives the same picture, and the
time stamps of all frames that come out are compared with those that must. Any other
file is decoded from the start. There is no third way.
"""

import io
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Optional, Union

import av
import numpy as np
from av.stream import Discard, Disposition
from av.video.reformatter import VideoReformatter

from .packets import PacketIndex, identify, index_packets

__all__ = ['MAX_PIXELS', 'VideoError', 'VideoFile']

MAX_PIXELS = 2**25  # of a frame: 8K, which is 7,680 x 4,320
HELD = 2**27  # bytes of decoded frames that are kept where all must be decoded anyway


class VideoError(RuntimeError):
    """A video cannot be used; the text says which and why."""


class VideoFile:
    """The frames of a video by number: in presentation order, upright, RGB, exact.

    Frames of another size than the first are scaled to it.

    Args:
        source: path, or the content of a file.
        max_pixels: how many a frame may have, before anything is allocated for one.
        num_threads: of the decoder.

    Raises:
        VideoError: there is no video in it, or it is damaged or too large.
    """

    def __init__(
        self,
        source: Union[str, io.BytesIO],
        max_pixels: int = MAX_PIXELS,
        num_threads: int = 1,
    ) -> None:
        self._source = os.path.abspath(source) if isinstance(source, str) else source
        self._max_pixels = max_pixels
        self._num_threads = num_threads
        self._reformatter = VideoReformatter()
        self._held: list[av.VideoFrame] = []
        self._open()
        self._header = self._context.width, self._context.height
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.fps = float(rate or 0)
        self._index = self._make_index()
        self._count = len(self._index.frames) if self._index else self._decode_all()

    def __len__(self) -> int:
        return self._count

    @cached_property
    def height(self) -> int:
        """Of the upright frames."""
        return self.frames([0]).shape[1]

    @cached_property
    def width(self) -> int:
        """Of the upright frames."""
        return self.frames([0]).shape[2]

    def frames(self, numbers: Sequence[int]) -> np.ndarray:
        """Decode frames: (n, H, W, 3), uint8, RGB.

        Args:
            numbers: in any order, also repeatedly; at least one.

        Raises:
            VideoError: there is no such frame, or it cannot be decoded.
        """
        rows: dict[int, list[int]] = {}
        for row, number in enumerate(numbers):
            if not 0 <= number < len(self):
                raise VideoError(f'it has {len(self)} frames, number {number} is none')
            rows.setdefault(int(number), []).append(row)
        out: Optional[np.ndarray] = None
        for number, frame in self._decode(sorted(rows)):
            picture = self._convert(number, frame)
            if out is None:
                out = np.empty((len(numbers), *picture.shape), np.uint8)
            out[rows[number]] = picture
        assert out is not None
        return out

    def check(self) -> None:
        """Decode all frames strictly.

        Most decoders paint over damaged data; this one is told to stop there.

        Raises:
            VideoError: data are damaged, or the frames are not those of the packets.
        """
        self._open()
        self._context.options = dict(self._context.options, err_detect='explode')
        times = [frame.pts for frame in self._scan(strict=True)]
        if len(times) != len(self):
            raise VideoError(f'{len(self)} frames are stored, {len(times)} come out')
        if self._index and times != [self._index.pts[i] for i in self._index.frames]:
            raise VideoError('frames come out at other times than they are stored at')

    def close(self) -> None:
        """Close the file; PyAV's objects refer to each other and would stay a while."""
        self._container.close()

    def __del__(self) -> None:
        if hasattr(self, '_container'):
            self.close()

    # --- Opening ----------------------------------------------------------------------

    def _open(self) -> None:
        """Open the file anew, at its start."""
        if hasattr(self, '_container'):
            self.close()
        if isinstance(self._source, io.BytesIO):
            self._source.seek(0)
        limit = {'max_pixels': str(self._max_pixels)}
        try:
            self._container = av.open(self._source, options=limit)
        except (av.FFmpegError, ValueError) as error:
            raise VideoError(f'FFmpeg finds no video in it ({_cause(error)})') from None
        stream = self._container.streams.best('video')
        if stream is None or stream.disposition & Disposition.attached_pic:
            raise VideoError('there is no video in it')
        for other in self._container.streams:
            if other is not stream:
                other.discard = Discard.all
        self._stream, self._context = stream, stream.codec_context
        if self._context is None:
            raise VideoError('there is no decoder for its video')
        self._context.options = limit
        self._context.thread_count = self._num_threads
        self._context.thread_type = 'AUTO' if self._num_threads > 1 else 'NONE'
        self._limit(self._context.width, self._context.height)

    def _limit(self, width: int, height: int) -> None:
        if width * height > self._max_pixels:
            raise VideoError(
                f'its frames have {width} x {height} pixels, more than '
                f'max_pixels={self._max_pixels}; make them smaller, or raise it'
            )

    def _make_index(self) -> Optional[PacketIndex]:
        try:
            return index_packets(
                self._container.format.name, self._stream, self._packets()
            )
        except av.FFmpegError as error:
            raise VideoError(f'it cannot be read ({_cause(error)})') from None

    def _packets(self) -> Iterator[av.Packet]:
        """Read the packets that follow; the last one of PyAV is empty."""
        return (p for p in self._container.demux(self._stream) if p.size)

    # --- All frames, from the start ---------------------------------------------------

    def _decode_all(self) -> int:
        """Count the frames by decoding them, and keep them if they are few."""
        self._open()
        count = size = 0
        for frame in self._scan():
            count += 1
            size += sum(plane.buffer_size for plane in frame.planes)
            if size <= HELD:
                self._held.append(frame)
            else:
                self._held.clear()
        if not count:
            raise VideoError('there is no frame in it')
        first = self._held[0] if self._held else next(self._frames_from_start())
        self._header = first.width, first.height
        return count

    def _frames_from_start(self) -> Iterator[av.VideoFrame]:
        if self._held:
            return iter(self._held)
        self._open()
        return self._scan()

    def _scan(self, strict: bool = False) -> Iterator[av.VideoFrame]:
        """Decode what follows; before the first frame, data may be of no use."""
        started = False
        try:
            for packet in self._container.demux(self._stream):
                try:
                    frames = self._context.decode(packet)
                except av.FFmpegError:
                    if started or strict:
                        raise
                    continue
                started = started or bool(frames)
                yield from frames
        except av.FFmpegError as error:
            raise VideoError(f'it cannot be decoded ({_cause(error)})') from None

    # --- Some frames ------------------------------------------------------------------

    def _decode(self, numbers: list[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decode frames by ascending number; one that comes again replaces itself."""
        if self._index is None:
            wanted = set(numbers)
            for number, frame in enumerate(self._frames_from_start()):
                if number in wanted:
                    yield number, frame
                if number == numbers[-1]:
                    return
            raise VideoError(
                f'it has {len(self)} frames, and not so many come out again'
            )
        groups: dict[int, list[int]] = {}
        for number in numbers:
            groups.setdefault(self._index.entry(number), []).append(number)
        for entry, group in groups.items():
            try:
                yield from self._decode_group(entry, group, self._index)
                continue
            except (av.FFmpegError, _Astray):
                pass
            try:  # as little as possible is taken for granted
                yield from self._decode_group(0, group, self._index, skip=False)
            except (av.FFmpegError, _Astray) as error:
                raise VideoError(
                    f'frame {group[0]} or one before it cannot be decoded '
                    f'({_cause(error)})'
                ) from None

    def _decode_group(
        self, entry: int, group: list[int], index: PacketIndex, skip: bool = True
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decode frames from a place on, and compare all that come out with the index.

        Raises:
            _Astray: other frames come out, or other packets are read.
        """
        wanted = {index.frames[number]: number for number in group}
        last = max(wanted)
        sent = [
            i
            for i in range(entry, last + 1)
            if i in wanted or not (skip and index.spare[i])
        ]
        start = index.pts[entry]
        expected = sorted(
            (index.pts[i], i) for i in sent if index.shown[i] and index.pts[i] >= start
        )
        coming = iter(expected)
        for frame in self._pictures(entry, set(sent), last):
            if frame.pts is not None and frame.pts < start:
                continue  # of the group before, without what it refers to
            pts, place = next(coming, (None, -1))
            if frame.pts != pts:
                raise _Astray(f'a frame at {frame.pts} where one at {pts} is stored')
            if place in wanted:
                yield wanted[place], frame
        if missing := len(list(coming)):
            raise _Astray(f'{missing} frames do not come out')

    def _pictures(
        self, entry: int, sent: set[int], last: int
    ) -> Iterator[av.VideoFrame]:
        """Decode some of the packets from a place on."""
        for i, packet in self._packets_from(entry):
            if i in sent:
                yield from self._context.decode(packet)
            if i == last:
                break
        yield from self._context.decode(None)

    def _packets_from(self, place: int) -> Iterator[tuple[int, av.Packet]]:
        """Read packets from a place on, each of them compared with the index."""
        assert self._index is not None
        ids, places = self._index.ids, self._index.places
        for offset in ids[place][:2]:  # formats seek by either time
            if offset is None:
                continue
            try:
                self._container.seek(offset, stream=self._stream)
            except av.FFmpegError:
                continue
            packets = self._packets()
            first = next(packets, None)
            if first and places.get(identify(first), place + 1) <= place:
                break
        else:
            self._open()
            packets = self._packets()
            first = next(packets, None)
        i = places[identify(first)] if first else 0
        while first:
            if i >= len(ids) or identify(first) != ids[i]:
                raise _Astray(f'packet {i} is another one than before')
            if i >= place:
                yield i, first
            first, i = next(packets, None), i + 1

    def _convert(self, number: int, frame: av.VideoFrame) -> np.ndarray:
        """Convert a decoded frame: (H, W, 3), uint8, RGB, upright."""
        if frame.is_corrupt:
            raise VideoError(f'frame {number} is damaged')
        self._limit(frame.width, frame.height)
        width, height = self._header
        rgb = self._reformatter.reformat(frame, width, height, 'rgb24', threads=1)
        return upright(rgb.to_ndarray(), frame)


class _Astray(Exception):
    """What comes out is not what the index says."""


def upright(picture: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    """Turn and mirror a picture (H, W, C) as its file says that it is shown.

    Raises:
        VideoError: it says another angle than a right one.
    """
    data = frame.side_data.get('DISPLAYMATRIX')
    if data is None:
        return picture
    matrix = np.frombuffer(bytes(data), np.int32)[[0, 1, 3, 4]] / 65536
    a, b, c, d = turns = np.round(matrix)  # x' = a x + c y, y' = b x + d y
    straight = (a == d == 0) != (b == c == 0) and abs(a * d - b * c) == 1
    if not straight or np.abs(matrix - turns).max() > 0.01:
        raise VideoError(
            f'it is shown turned by {frame.rotation} degrees, expected a right angle'
        )
    if a == 0:
        picture = picture.transpose(1, 0, 2)
        a, d = c, b
    return picture[:: int(d), :: int(a)]


def _cause(error: Exception) -> str:
    return getattr(error, 'strerror', None) or str(error)
