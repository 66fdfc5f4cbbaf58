"""Find out from a video file's own headers whether its end is missing.

A copy that was broken off still opens: decord reads an AVI, Matroska or WebM file as a
shorter video, and its reader of files in memory crashes on such an AVI.
"""

import struct
from typing import BinaryIO

__all__ = ['missing_bytes']

# Boxes of an MP4 or QuickTime file that hold its index and its frames.
ESSENTIAL = (b'mdat', b'moof', b'moov')

EBML, SEGMENT = 0x1A45DFA3, 0x18538067  # element IDs of Matroska and WebM


def missing_bytes(file: BinaryIO) -> int:
    """Return how many bytes of a video file its headers promise and it lacks.

    Zero also where the format is another than AVI, MP4, QuickTime, Matroska and WebM,
    or where the length was unknown when the header was written, as in a live stream.

    Args:
        file: seekable; its position is changed.
    """
    size = file.seek(0, 2)
    file.seek(0)
    start = file.read(8)
    if start[:4] == b'RIFF':
        end = _riff_end(file, size)
    elif start[:4] == EBML.to_bytes(4, 'big'):
        end = _matroska_end(file)
    elif start[4:8] in (b'ftyp', *ESSENTIAL):
        end = _mp4_end(file, size)
    else:
        return 0
    return max(0, end - size)


def _riff_end(file: BinaryIO, size: int) -> int:
    """Return where the last RIFF chunk ends; files over 1 GB have several."""
    end = 0
    while end < size:
        file.seek(end)
        header = file.read(8)
        if len(header) < 8 or header[:4] != b'RIFF':
            break
        (length,) = struct.unpack('<I', header[4:])
        if length in (0, 2**32 - 1):  # never filled in
            break
        end += 8 + length
    return end


def _mp4_end(file: BinaryIO, size: int) -> int:
    """Return where the last essential box ends; what follows may be anything."""
    position = end = 0
    while position < size:
        file.seek(position)
        header = file.read(16)
        if len(header) < 8:
            break
        length, kind = struct.unpack('>I4s', header[:8])
        if length == 1 and len(header) == 16:
            (length,) = struct.unpack('>Q', header[8:])
        if length < 8:  # 0 is 'to the end of the file', others are no box
            break
        position += length
        if kind in ESSENTIAL:
            end = position
    return end


def _matroska_end(file: BinaryIO) -> int:
    """Return where the segment, which holds everything, ends."""
    file.seek(4)
    file.seek(_read_size(file), 1)  # over the header
    if file.read(4) != SEGMENT.to_bytes(4, 'big'):
        return 0
    length = _read_size(file)
    return file.tell() + length if length else 0


def _read_size(file: BinaryIO) -> int:
    """Read a length of one to eight bytes; 0 stands for an unknown one.

    The zero bits before the first one say how many bytes follow; all ones are unknown.
    """
    first = file.read(1)
    if not first or first[0] == 0:
        return 0
    more = 8 - first[0].bit_length()
    bits = 7 * (more + 1)
    value = int.from_bytes(first + file.read(more), 'big') & ((1 << bits) - 1)
    return 0 if value == (1 << bits) - 1 else value
