"""What a file's first bytes say, and that no other file is read instead of it."""

import struct
from functools import partial

import av
import numpy as np
import pytest
from faulty_videos import write_frames
from tiny import TINY
from tiny_run import ROOT

from mmstop.apis import VideoCLIP
from mmstop.datasets import CheckedDecordInit, VideoError
from mmstop.datasets.containers import check_file
from mmstop.datasets.loading import DECODERS, check_video

FORMATS = {  # suffix: codec
    '3gp': 'mpeg4',
    'avi': 'mpeg4',
    'flv': 'flv',
    'gif': 'gif',
    'm2ts': 'mpeg2video',
    'm4v': 'mpeg4',
    'mkv': 'mpeg4',
    'mov': 'mpeg4',
    'mp4': 'mpeg4',
    'mpg': 'mpeg2video',
    'm2v': 'mpeg2video',
    'mxf': 'mpeg2video',
    'rm': 'rv10',
    'ts': 'mpeg2video',
    'wmv': 'wmv2',
}


@pytest.mark.parametrize('suffix', FORMATS)
def test_containers_are_known(suffix, tmp_path):
    path = tmp_path / f'a.{suffix}'
    with av.open(str(path), 'w') as file:
        stream = file.add_stream(FORMATS[suffix], 25)
        stream.width, stream.height = 176, 144
        stream.pix_fmt = 'rgb8' if suffix == 'gif' else 'yuv420p'
        for t in range(3):
            image = np.full((144, 176, 3), 40 * t, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        file.mux(stream.encode())
    check_file(str(path))


def test_other_first_bytes_are_known(tmp_path):
    path = tmp_path / 'a'
    starts = [b'\0\0\0\1\x67', b'\0\0\1\x67', b'DKIF', b'OggS', b'GIF89a', b'\x1f\7\0']
    for size, place in ((192, 4), (204, 0)):  # bytes of a packet, and the sync's place
        packet = bytearray(size)
        packet[place] = 0x47
        starts.append(packet * 5)
    for start in starts:
        path.write_bytes(start)
        check_file(str(path))
    check_file(str(ROOT / 'tests' / 'data' / 'grey.webm'))


# --- Lists of other files -----------------------------------------------------------

LISTS = {
    'hls': '#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n',
    'concat': "ffconcat version 1.0\nfile '{}'\n",
    'sdp': 'v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n',
    'dash': '<?xml version="1.0"?><MPD><Period><BaseURL>{}</BaseURL></Period></MPD>',
    'text that looks like a box': 'v=0\nfree\nc=IN IP4 127.0.0.1\n',
    'sound': 'RIFF\x24\x00\x00\x00WAVEfmt ',
}


@pytest.fixture(scope='module')
def clips():
    return [VideoCLIP.from_clip(TINY, None, 2, 'cpu', name) for name in DECODERS]


@pytest.mark.parametrize('kind', LISTS)
def test_lists_of_other_files_are_not_followed(kind, clips, tmp_path):
    secret, path = tmp_path / 'secret.ts', str(tmp_path / 'v.mp4')
    with av.open(str(secret), 'w') as file:
        stream = file.add_stream('mpeg2video', 25)
        image = np.full((stream.height, stream.width, 3), 99, np.uint8)
        file.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        file.mux(stream.encode())
    with open(path, 'w') as file:
        file.write(LISTS[kind].format(secret))
    doors = [partial(clip.encode_video, on_error=refuse) for clip in clips]
    doors.append(lambda path: CheckedDecordInit()(dict(filename=path)))
    doors.append(partial(check_video, full=False))
    expected = 'cut short' if 'box' in kind else 'it is not a video, it starts with b'
    for door in doors:
        with pytest.raises(VideoError, match=expected):
            door(path)


def refuse(video, reason):
    raise VideoError(reason)


def test_movies_that_refer_to_other_files(clips, tmp_path):
    """A QuickTime file may say that its frames lie in another; FFmpeg can follow."""
    other, movie = str(tmp_path / 'other.mp4'), str(tmp_path / 'movie.mp4')
    write_frames(tmp_path / 'other.mp4', 8)
    refer(movie, other)
    wilful = dict(enable_drefs='1', use_absolute_path='1')
    np.testing.assert_array_equal(decode(movie, wilful), decode(other, {}))
    for clip in clips:
        assert np.isnan(clip.encode_video(movie, on_error=lambda *_: None)).all()
        assert not np.isnan(clip.encode_video(other)).any()


def refer(movie, other):
    """Copy ``other`` without its frames, which lie in ``other``."""
    with open(other, 'rb') as file:
        data = bytearray(file.read())
    pictures = data.index(b'mdat') + 4
    end = pictures - 8 + struct.unpack('>I', data[pictures - 8 : pictures - 4])[0]
    data[pictures:end] = bytes(end - pictures)
    path = other.encode() + b'\0' * (len(other) % 2)
    alias = bytes(150) + struct.pack('>HH', 2, len(path)) + path + b'\xff\xff\0\0'
    entry = struct.pack('>I4sI', 12 + len(alias), b'alis', 0) + alias
    new = struct.pack('>I4sII', 16 + len(entry), b'dref', 0, 1) + entry
    start = data.index(b'dref') - 4
    old = struct.unpack('>I', data[start : start + 4])[0]
    data[start : start + old] = new
    for box in (b'moov', b'trak', b'mdia', b'minf', b'dinf'):  # those around it
        where = data.index(box) - 4
        size = struct.unpack('>I', data[where : where + 4])[0] + len(new) - old
        data[where : where + 4] = struct.pack('>I', size)
    with open(movie, 'wb') as file:
        file.write(data)


def decode(path, options):
    with av.open(path, options=options) as file:
        return np.stack([frame.to_ndarray() for frame in file.decode(video=0)])


# --- Names --------------------------------------------------------------------------


def test_names_that_look_like_protocols_are_files(clips, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = write_frames(tmp_path / 'a.mp4', 4)
    for name in ('12:30.mp4', 'http:x.mp4', 'concat:a.mp4|a.mp4'):
        (tmp_path / name).write_bytes(content)
        reader = CheckedDecordInit()(dict(filename=name))['video_reader']
        assert len(reader) == 4
        check_video(name, full=True)
    for clip in clips:
        rows = clip.encode_video(['a.mp4', '12:30.mp4', 'http:x.mp4'])
        np.testing.assert_array_equal(rows[1:], rows[[0, 0]])


def test_a_suffix_is_added_only_where_there_is_no_such_file(tmp_path):
    for name, num in (('clip', 4), ('clip.mp4', 8), ('other.mp4', 6)):
        (tmp_path / name).write_bytes(write_frames(tmp_path / 'x.mp4', num))
    for name, num in (('clip', 4), ('clip.mp4', 8), ('other', 6), ('other.mp4', 6)):
        results = CheckedDecordInit()(dict(filename=str(tmp_path / name)))
        assert results['total_frames'] == num
