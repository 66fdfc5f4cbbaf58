"""Find out from a video's packets, without decoding, where decoding can start.

A container flags a packet as a key frame if decoding from it gives pictures. These are
not always correct, for example with x264's intra-refresh and HEVC's open GOPs. The
content of the packets is reliable, since the codec standards define it.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Optional

from av import Packet, VideoCodecContext

__all__ = ['PacketIndex', 'index_packets']

CONTAINERS = ('mov', 'matroska')  # formats in which every packet has its own timestamps
# H.264 profiles whose parameter sets have a chroma format and scaling lists.
HIGH = (44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244)


class Kind(NamedTuple):
    """What the data of a packet tell about its frame."""

    entry: bool  # this frame and all later ones can be decoded from here
    spare: bool = False  # no other frame of its layer or below refers to it
    shown: bool = True
    layer: int = 0  # HEVC's temporal layer


Inspect = Callable[[memoryview], Optional[Kind]]  # None: the packet holds no frame


class PacketIndex:
    """The packets of a stream, where every shown packet is known to be one frame.

    Args:
        ids: the unique ids of the packets, in decoding order.
        kinds: the kind of each packet.
        discard: whether each packet is decoded but not shown because of an edit list.
    """

    def __init__(
        self, ids: list[tuple], kinds: list[Kind], discard: list[bool]
    ) -> None:
        self.ids = ids
        self.places = {id_: i for i, id_ in enumerate(ids)}
        self.pts = [id_[0] for id_ in ids]
        self.shown = [k.shown and not d for k, d in zip(kinds, discard)]
        top = max(k.layer for k in kinds)
        self.spare = [k.spare and k.layer == top for k in kinds]
        places = [i for i, shown in enumerate(self.shown) if shown]
        self.frames = sorted(places, key=self.pts.__getitem__)  # in presentation order
        self.entries: list[int] = []  # places, in decoding order
        latest = -float('inf')  # latest time of the packets shown so far
        for i, kind in enumerate(kinds):
            if kind.entry and self.pts[i] > latest:
                self.entries.append(i)
            if self.shown[i]:
                latest = max(latest, self.pts[i])
        self._entry_pts = [self.pts[i] for i in self.entries]

    def entry(self, frame: int) -> int:
        """Return the last place from which a frame can be decoded."""
        pts = self.pts[self.frames[frame]]
        return self.entries[bisect_right(self._entry_pts, pts) - 1]

    def is_whole(self) -> bool:
        """Tell whether every shown packet can be decoded from the first one."""
        return (
            bool(self.frames)
            and self.entries[:1] == [0]
            and self.pts[self.frames[0]] >= self.pts[0]
            and len(self.places) == len(self.ids)
            and len({self.pts[i] for i in self.frames}) == len(self.frames)
        )

    def is_reordered(self) -> bool:
        """Tell whether frames are presented in another order than decoded."""
        return self.pts != sorted(self.pts)


def identify(packet: Packet) -> tuple:
    """Return the id of a packet within its file; the presentation time comes first."""
    return packet.pts, packet.dts, packet.size


def index_packets(
    container: str, context: VideoCodecContext, packets: Iterable[Packet]
) -> Optional[PacketIndex]:
    """Index a video stream, or return None if only decoding can tell its frames.

    Args:
        container: FFmpeg's name of the format.
        context: codec context of the stream.
        packets: all packets of the stream.
    """
    inspect = _inspector(context.codec.canonical_name, context.extradata or b'')
    if inspect is None or not container.startswith(CONTAINERS):
        return None
    ids, kinds, discard = [], [], []
    for packet in packets:
        kind = inspect(memoryview(packet))
        if kind is None or packet.pts is None or packet.is_corrupt:
            return None
        ids.append(identify(packet))
        kinds.append(kind)
        discard.append(packet.is_discard)
    if not ids:
        return None
    index = PacketIndex(ids, kinds, discard)
    # Some muxers store decoding times as the timestamps of reordered frames.
    plausible = index.is_reordered() or not context.has_b_frames
    return index if index.is_whole() and plausible else None


def _inspector(codec: str, extradata: bytes) -> Optional[Inspect]:
    """Return the function that inspects a codec's packets; None if unsupported."""
    configured = (
        extradata[:1] == b'\x01'
    )  # an avcC or hvcC box: length prefixes instead of start codes
    if codec == 'h264':
        if _has_fields(extradata[8:] if configured else extradata, configured):
            return None  # a frame may be two packets
        return _h264((extradata[4] & 3) + 1 if configured else 0)
    if codec == 'hevc':
        return _hevc((extradata[21] & 3) + 1 if configured else 0)
    return {
        'vp8': _vp8,
        'vp9': _vp9,
        'av1': _av1,
        'mjpeg': _mjpeg,
        'prores': _intra,
        'dnxhd': _intra,
    }.get(codec)


def _units(data: memoryview, length: int) -> Iterator[memoryview]:
    """Yield NAL units, prefixed by ``length`` bytes of size, or by start codes if 0."""
    if not length:
        for code in re.finditer(b'\x00\x00\x01', data):
            yield data[code.end() :]
        return
    position = 0
    while position + length < len(data):
        size = int.from_bytes(data[position : position + length], 'big')
        yield data[position + length :]
        position += length + size


def _h264(length: int) -> Inspect:
    def inspect(data: memoryview) -> Optional[Kind]:
        for unit in _units(data, length):
            kind = unit[0] & 31
            if (
                1 <= kind <= 5
            ):  # a slice of a picture; 5 is an IDR picture, which resets the decoder
                return Kind(entry=kind == 5, spare=not unit[0] & 0x60)
        return None

    return inspect


def _has_fields(parameters: bytes, alone: bool) -> bool:
    """Tell whether pictures of H.264 may be single fields.

    Args:
        parameters: data with a sequence parameter set.
        alone: whether the set comes without a start code.
    """
    units = (
        [parameters] if alone else [bytes(u) for u in _units(memoryview(parameters), 0)]
    )
    unit = next((u for u in units if len(u) > 4 and u[0] & 31 == 7), None)
    if unit is None:
        return True  # assume so if unknown
    bits = _Bits(unit[4:].replace(b'\0\0\3', b'\0\0'))
    bits.number()
    if unit[1] in HIGH:
        chroma = bits.number()
        bits.take(1 if chroma == 3 else 0)
        bits.number(), bits.number(), bits.take(1)
        if bits.take(1):
            for i in range(12 if chroma == 3 else 8):
                if bits.take(1):
                    bits.skip_scaling_list(16 if i < 6 else 64)
    bits.number()
    order = bits.number()
    if order == 0:
        bits.number()
    elif order == 1:
        bits.take(1), bits.number(), bits.number()
        for _ in range(min(bits.number(), 255)):
            bits.number()
    bits.number(), bits.take(1), bits.number(), bits.number()
    return not bits.take(1)


class _Bits:
    """A reader of the bits of a parameter set; it returns zeros past the end."""

    def __init__(self, data: bytes) -> None:
        self.bits = ''.join(f'{byte:08b}' for byte in data) + '0' * 64
        self.position = 0

    def take(self, count: int) -> int:
        self.position += count
        return int(self.bits[self.position - count : self.position] or '0', 2)

    def number(self) -> int:
        """Read an Exp-Golomb coded number."""
        zeros = self.bits.find('1', self.position) - self.position
        if zeros < 0:  # nothing is left
            return 0
        self.take(zeros)
        return self.take(zeros + 1) - 1

    def skip_scaling_list(self, size: int) -> None:
        last = value = 8
        for _ in range(size):
            if value:
                code = self.number()
                value = (last + (code + 1) // 2 * (1 if code % 2 else -1)) % 256
            last = value or last


def _hevc(length: int) -> Inspect:
    def inspect(data: memoryview) -> Optional[Kind]:
        for unit in _units(data, length):
            kind, base = unit[0] >> 1, not (unit[0] & 1 or unit[1] & 0xF8)
            if kind < 32 and base:
                # 16 to 21 are random access pictures: frames presented after them refer
                # to nothing before them. Even types up to 14 are not referenced.
                spare = kind <= 14 and kind % 2 == 0
                return Kind(16 <= kind <= 21, spare, layer=(unit[1] & 7) - 1)
        return None

    return inspect


def _vp8(data: memoryview) -> Optional[Kind]:
    if not data:
        return None
    return Kind(entry=not data[0] & 1, shown=bool(data[0] & 0x10))


def _vp9(data: memoryview) -> Optional[Kind]:
    if not data:
        return None
    shift = 0 if data[0] & 0x30 == 0x30 else 1  # profile 3 has one more bit
    again, inter, shown = (data[0] >> (shift + bit) & 1 for bit in (2, 1, 0))
    several = data[-1] & 0xE0 == 0xC0  # a superframe, whose last frame is shown
    return Kind(
        not again and not inter and bool(shown), shown=bool(again or shown or several)
    )


def _av1(data: memoryview) -> Optional[Kind]:
    position = 0
    while position < len(data):
        header, size, shift = data[position], 0, 0
        position += 2 if header & 4 else 1
        if header & 2:
            for byte in data[position:]:
                size |= (byte & 127) << shift
                position, shift = position + 1, shift + 7
                if byte < 128:
                    break
        else:
            size = len(data) - position
        if header >> 3 & 15 in (3, 6) and size:  # OBU types: frame header, frame
            return Kind(entry=data[position] >> 4 == 1)  # a new key frame that is shown
        position += size
    return None


def _mjpeg(data: memoryview) -> Optional[Kind]:
    head = bytes(data[:2048])  # a picture without tables uses those of an earlier one
    return Kind(entry=b'\xff\xdb' in head and b'\xff\xc4' in head)


def _intra(data: memoryview) -> Optional[Kind]:
    return Kind(entry=True)
