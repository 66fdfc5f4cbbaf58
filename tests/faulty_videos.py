"""Video files with every fault, from OpenCV and a few bytes."""

import re
import struct
import wave
from pathlib import Path

import cv2
import numpy as np

SIZE = 64  # pixels; decord wants multiples of 64


def write_frames(
    path: Path, num: int = 32, fourcc: str = 'mp4v', size: int = SIZE
) -> bytes:
    """Write noise in which no two frames are the same; return the file."""
    writer = cv2.VideoWriter(
        str(path), cv2.VideoWriter_fourcc(*fourcc), 25, (size, size)
    )
    assert writer.isOpened()
    rng = np.random.default_rng(0)
    for t in range(num):
        frame = rng.integers(0, 255, (size, size, 3), np.uint8)
        frame[..., 0] = 7 * t
        writer.write(frame)
    writer.release()
    return path.read_bytes()


def write_bad_videos(folder: Path) -> dict[str, str]:
    """Write a video for every fault into ``folder``: {name: pattern of the cause}."""
    folder.mkdir(parents=True, exist_ok=True)

    def put(name: str, content: bytes) -> None:
        (folder / name).write_bytes(content)

    put('empty.mp4', b'')
    put('page.mp4', b'<html>404 Not Found</html>' * 40)
    (folder / 'folder.mp4').mkdir()
    whole = write_frames(folder / 'whole.mp4')
    put('cut.mp4', whole[: len(whole) // 2])
    put('zero_frames.mp4', without_frames(whole))
    middle = len(whole) // 3
    put('damaged.mp4', whole[:middle] + bytes(middle) + whole[2 * middle :])
    avi = write_frames(folder / 'whole.avi', fourcc='XVID')
    put('cut.avi', avi[: len(avi) // 2])
    with wave.open(str(folder / 'audio.mp4'), 'wb') as audio:
        audio.setnchannels(1), audio.setsampwidth(2), audio.setframerate(8000)
        audio.writeframes(bytes(16000))
    (folder / 'whole.mp4').unlink(), (folder / 'whole.avi').unlink()
    return {
        'missing.mp4': 'there is no such file',
        'empty.mp4': 'the file is empty',
        'page.mp4': 'it is not a video, it starts with',
        'folder.mp4': 'it is a folder',
        'cut.mp4': r'cut short, [\d,]+ bytes are missing',
        'zero_frames.mp4': 'there is no frame in it',
        'damaged.mp4': 'it cannot be decoded .Invalid data',
        'cut.avi': r'cut short, [\d,]+ bytes are missing',
        'audio.mp4': 'it is not a video, it starts with',
    }


def without_frames(mp4: bytes) -> bytes:
    """Set the number of frames in an MP4 file's tables to zero."""
    mp4 = bytearray(mp4)
    for table, skip in ((b'stsz', 12), (b'stts', 8), (b'stsc', 8), (b'stco', 8)):
        start = mp4.index(table) + skip
        mp4[start : start + 4] = struct.pack('>I', 0)
    return bytes(mp4)


def write_odd_videos(folder: Path) -> list[str]:
    """Write unusual videos that can be used; return their names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ['one_frame.mp4', 'short.mp4', 'with blanks.mp4', 'ü日本.mp4', 'old.avi']
    for name, num, fourcc in zip(names, (1, 3, 8, 8, 8), ['mp4v'] * 4 + ['XVID']):
        write_frames(folder / name, num, fourcc)
    write_variable_rate(folder / 'variable_rate.mp4')
    return [*names, 'variable_rate.mp4']


def write_variable_rate(path: Path) -> None:
    """Write a video whose last frame lasts nine times as long as the others."""
    mp4 = bytearray(write_frames(path, 8))
    start = mp4.index(b'stts') - 4
    old, _, _, _, num, ticks = struct.unpack('>I4sIIII', mp4[start : start + 24])
    assert num == 8  # frames of the same length
    new = struct.pack('>I4sII', 16 + 16, b'stts', 0, 2)
    new += struct.pack('>IIII', 7, ticks // 2, 1, 9 * ticks // 2)
    mp4[start : start + old] = new
    for box in (b'moov', b'trak', b'mdia', b'minf', b'stbl'):  # those around it
        where = mp4.index(box) - 4
        size = struct.unpack('>I', mp4[where : where + 4])[0] + len(new) - old
        mp4[where : where + 4] = struct.pack('>I', size)
    path.write_bytes(mp4)


def write_losing(path: Path, lost: list[int]) -> str:
    """Write an MP4 of 32 frames, ``lost`` without a picture; return its path."""
    mp4 = bytearray(write_frames(path))
    headers = [match.start() for match in re.finditer(b'\x00\x00\x01\xb3', mp4)]
    assert len(headers) == 32 and 31 not in lost
    for t in lost:
        start, end = headers[t] + 12, headers[t + 1]
        mp4[start:end] = bytes(end - start)
    path.write_bytes(mp4)
    return str(path)


def write_changing_size(path: Path) -> str:
    """Write a transport stream of 16 frames and 16 twice as large; return its path."""
    small = write_frames(path, 16)
    path.write_bytes(small + write_frames(path, 16, size=2 * SIZE))
    return str(path)


def write_bomb(path: Path) -> str:
    """Write an AVI whose header claims 2^31 frames, which aborts decord's process."""
    avi = bytearray(write_frames(path.with_suffix('.avi'), 4, 'XVID'))
    place = avi.index(b'strh') + 8 + 32  # of dwLength
    avi[place : place + 4] = struct.pack('<I', 2**31 - 1)
    path.write_bytes(avi)
    return str(path)
