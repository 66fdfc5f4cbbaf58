"""Check by a video file's headers what format it is and whether it is truncated.

FFmpeg detects the format from the content, not from the name. Given a text file called
``v.mp4`` with an HLS or concat list, it opens the files that the list names. Therefore,
only files that start like a container are passed to a decoder.

A truncated copy still opens: decord reads an AVI, Matroska or WebM file as a shorter
video, and its reader of in-memory files crashes on such an AVI.
"""

import os
import stat
import struct
from typing import BinaryIO

from mmstop.errors import VideoError

__all__ = ['FFMPEG_FORMATS', 'check_container', 'check_file', 'missing_bytes']

# FFmpeg's names of the formats that check_container accepts, for 'format_whitelist'.
FFMPEG_FORMATS = (
    'asf,avi,dv,flv,gif,h264,hevc,ivf,m4v,matroska,mov,mpeg,mpegts,mpegvideo,mxf,ogg,rm'
)
STARTS = (
    b'\x00\x00\x00\x01',  # H.264 and HEVC byte streams (Annex B)
    b'\x00\x00\x01',  # the same, and MPEG-1, -2 and -4, as program or raw streams
    b'\x06\x0e\x2b\x34',  # MXF
    b'\x1a\x45\xdf\xa3',  # Matroska and WebM
    b'\x1f\x07\x00',  # DV
    b'\x30\x26\xb2\x75\x8e\x66\xcf\x11',  # ASF: WMV
    b'.RMF',  # RealMedia
    b'DKIF',  # IVF
    b'FLV\x01',
    b'GIF87a',
    b'GIF89a',
    b'OggS',
)
RIFF = (b'AVI ', b'AVIX', b'AMV ', b'CDXA')  # kinds of RIFF files with pictures
PACKETS = ((188, 0), (192, 4), (204, 0))  # MPEG-TS: packet size, offset of SYNC in it
SYNC = 0x47

# Boxes of an MP4 or QuickTime file that hold its index and its frames, and other boxes
# that may come first.
ESSENTIAL = (b'mdat', b'moof', b'moov')
FIRST = (b'ftyp', b'styp', b'free', b'skip', b'wide', b'pnot', b'sidx', b'uuid')

EBML, SEGMENT = 0x1A45DFA3, 0x18538067  # element IDs of Matroska and WebM


def check_file(path: str) -> None:
    """Check a file on disk before it is passed to a decoder.

    Raises:
        VideoError: it is missing, not a regular file, or rejected by
            :func:`check_container`.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise VideoError('there is no such file') from None
    if not stat.S_ISREG(mode):  # reading from a pipe would block forever
        raise VideoError(f'it is a {"folder" if stat.S_ISDIR(mode) else "device"}')
    with open(path, 'rb') as file:
        check_container(file)


def check_container(file: BinaryIO) -> None:
    """Check that a file starts like a video and is complete.

    Args:
        file: seekable; its position changes.

    Raises:
        VideoError: it is empty, truncated or not a video; the message says which.
    """
    file.seek(0)
    start = file.read(3 * max(size for size, _ in PACKETS))
    if not start:
        raise VideoError('the file is empty')
    if not _starts_as_video(start):
        raise VideoError(
            f'it is not a video, it starts with {start[:16]!r}. Expected a container '
            f'such as MP4, Matroska or AVI; lists of other files are not followed'
        )
    if missing := missing_bytes(file):
        raise VideoError(f'the file is cut short, {missing:,} bytes are missing')


def _starts_as_video(start: bytes) -> bool:
    if start[:4] == b'RIFF':
        return start[8:12] in RIFF
    return (
        start.startswith(STARTS)
        or start[4:8] in (*ESSENTIAL, *FIRST)
        or any(
            len(syncs := start[place::size][:3]) and set(syncs) == {SYNC}
            for size, place in PACKETS
        )
    )


def missing_bytes(file: BinaryIO) -> int:
    """Return how many of the bytes declared in a video file's headers are missing.

    The result is also 0 for formats other than AVI, MP4, QuickTime, Matroska and WebM,
    and if the length was unknown when the header was written, as in a live stream.

    Args:
        file: seekable; its position changes.
    """
    size = file.seek(0, 2)
    file.seek(0)
    start = file.read(8)
    if start[:4] == b'RIFF':
        end = _riff_end(file, size)
    elif start[:4] == EBML.to_bytes(4, 'big'):
        end = _matroska_end(file)
    elif start[4:8] in (*ESSENTIAL, *FIRST):
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
    """Return where the last essential box ends; anything may follow it.

    The first box counts as essential too, since text may look like a box with an absurd
    length.
    """
    position = end = 0
    while position < size:
        file.seek(position)
        header = file.read(16)
        if len(header) < 8:
            break
        length, kind = struct.unpack('>I4s', header[:8])
        if length == 1 and len(header) == 16:
            (length,) = struct.unpack('>Q', header[8:])
        if length < 8:  # 0 means 'to the end of the file', other values are no box
            break
        position += length
        if kind in ESSENTIAL or not end:
            end = position
    return end


def _matroska_end(file: BinaryIO) -> int:
    """Return where the segment, which holds everything, ends."""
    file.seek(4)
    file.seek(_read_size(file), 1)  # skip the header
    if file.read(4) != SEGMENT.to_bytes(4, 'big'):
        return 0
    length = _read_size(file)
    return file.tell() + length if length else 0


def _read_size(file: BinaryIO) -> int:
    """Read a variable-length size of one to eight bytes; 0 means unknown.

    The number of leading zero bits tells how many bytes follow. A value of all ones
    means unknown.
    """
    first = file.read(1)
    if not first or first[0] == 0:
        return 0
    more = 8 - first[0].bit_length()
    bits = 7 * (more + 1)
    value = int.from_bytes(first + file.read(more), 'big') & ((1 << bits) - 1)
    return 0 if value == (1 << bits) - 1 else value
