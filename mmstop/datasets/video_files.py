"""Read exactly the requested frames of a video.

A frame's number is its index among all frames that decoding from the start presents,
in order, none dropped and none repeated. If a file's packets prove that seeking is safe
(``packets.py``), decoding starts at the last packet that gives the same picture, and
the timestamps of all decoded frames are compared with the expected ones. Any other file
is decoded from the start.
"""

import gc
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Optional, Union

import av
import numpy as np
from av.container import InputContainer
from av.stream import Discard, Disposition
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream as Stream

from mmstop.errors import VideoError

from .containers import FFMPEG_FORMATS
from .packets import PacketIndex, identify, index_packets

__all__ = ['MAX_PIXELS', 'VideoFile', 'VideoStream', 'cause', 'too_large', 'upright']

MAX_PIXELS = 2**25  # per frame, enough for 8K (7,680 x 4,320)
HELD = 2**27  # bytes of decoded frames to keep when all must be decoded anyway


# Closing a decoder or encoder waits for its threads, which a fork does not copy. So a
# forked process, such as a data worker, must not collect its parent's garbage.
os.register_at_fork(after_in_child=gc.freeze)


class VideoStream:
    """The best video stream of a file.

    Args:
        source: path, or the content of a file.
        max_pixels: maximum pixels per frame, checked before a frame is allocated.
        num_threads: threads of the decoder.
        strict: stop at damaged data, which a decoder otherwise conceals.

    Raises:
        VideoError: there is no video in it, or it is too large.
    """

    def __init__(
        self,
        source: Union[str, io.BytesIO],
        max_pixels: int,
        num_threads: int = 1,
        strict: bool = False,
    ) -> None:
        if isinstance(source, str):
            # FFmpeg takes the part of a relative path before a colon for a protocol.
            source = os.path.abspath(source)
        else:
            source.seek(0)
        # FFmpeg also counts the padding that it adds to each row.
        limit = {'max_pixels': str(2 * max_pixels + 2**20)}
        formats = {'format_whitelist': FFMPEG_FORMATS}
        try:
            container = av.open(source, options=limit | formats)
        except (av.FFmpegError, ValueError) as error:
            raise VideoError(f'FFmpeg finds no video in it ({cause(error)})') from None
        assert isinstance(container, InputContainer)  # opened for reading
        self.container, self.strict = container, strict
        stream = container.streams.best('video')
        if (
            not isinstance(stream, Stream)
            or Disposition.attached_pic in stream.disposition
        ):
            raise VideoError('there is no video in it')
        if stream.codec_context is None:
            raise VideoError('there is no decoder for its video')
        for other in container.streams:
            if other is not stream:
                other.discard = Discard.all
        self.stream, self.context = stream, stream.codec_context
        self.width, self.height = self.context.width, self.context.height
        if not self.width * self.height:  # FFmpeg found no frame, or one too large
            raise VideoError(
                f'there is no frame in it, or none of at most max_pixels={max_pixels}'
            )
        if self.width * self.height > max_pixels:
            raise too_large(self.width, self.height, max_pixels)
        self.context.options = dict(
            limit, **{'err_detect': 'explode'} if strict else {}
        )
        self.context.thread_count = num_threads
        self.context.thread_type = 'AUTO' if num_threads > 1 else 'NONE'

    def close(self) -> None:
        """Close the file; PyAV's reference cycles would keep it open for a while."""
        self.container.close()

    @property
    def fps(self) -> float:
        """The mean frame rate from the file or FFmpeg's guess; 0 if unknown."""
        return float(self.stream.average_rate or self.stream.guessed_rate or 0)

    def packets(self) -> Iterator[av.Packet]:
        """Read the remaining packets, except for PyAV's final empty one.

        Raises:
            VideoError: the file cannot be read.
        """
        try:
            yield from (p for p in self.container.demux(self.stream) if p.size)
        except av.FFmpegError as error:
            raise VideoError(f'it cannot be read ({cause(error)})') from None

    def frames(self) -> Iterator[av.VideoFrame]:
        """Decode all frames; nothing may have been read before.

        Undecodable data before the first frame belongs to a frame that was cut off, and
        is ignored.

        Raises:
            VideoError: data is damaged.
        """
        started, read = self.strict, 0
        try:
            for packet in self.container.demux(self.stream):
                try:
                    frames = self.context.decode(packet)
                except av.FFmpegError:
                    if started:
                        raise
                    continue
                started = started or bool(frames)
                yield from frames
                if packet.dts is not None:
                    read = packet.dts + 1
        except av.FFmpegError as error:
            raise VideoError(f'it cannot be decoded ({cause(error)})') from None
        # FFmpeg silently skips damaged chunks of an AVI file. The tolerance is for old
        # muxers, whose headers are off by a few frames.
        promised = self.stream.frames if self.container.format.name == 'avi' else 0
        if read < 0.9 * promised:
            raise VideoError(f'it ends at frame {read} of the {promised} in its header')


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


def cause(error: Exception) -> str:
    """Return an exception's message; for FFmpeg's errors only the essential part."""
    return getattr(error, 'strerror', None) or str(error)


def too_large(width: int, height: int, max_pixels: int) -> VideoError:
    """Return the error for frames with too many pixels."""
    return VideoError(
        f'its frames have {width} x {height} pixels, more than '
        f'max_pixels={max_pixels}; shrink them, or raise it in CheckedDecordInit'
    )


def upright(picture: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    """Rotate and flip a picture (H, W, C) according to its file's display matrix.

    Raises:
        VideoError: the angle is not a multiple of 90 degrees.
    """
    data = frame.side_data.get('DISPLAYMATRIX')
    if data is None:
        return picture
    matrix = np.frombuffer(data, np.int32)[[0, 1, 3, 4]] / 65536  # type: ignore[call-overload]
    a, b, c, d = turns = np.round(matrix)  # x' = a x + c y, y' = b x + d y
    straight = (a == d == 0) != (b == c == 0) and abs(a * d - b * c) == 1
    if not straight or np.abs(matrix - turns).max() > 0.01:
        angle = np.degrees(np.arctan2(matrix[1], matrix[0])) % 360
        raise VideoError(
            f'its display rotation is {angle:.0f} degrees clockwise, expected a '
            f'multiple of 90'
        )
    if a == 0:
        picture = picture.transpose(1, 0, 2)
        a, d = c, b
    return picture[:: int(d), :: int(a)]
