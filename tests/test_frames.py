"""Frames are those that were asked for, whatever FFmpeg can write."""

import io
import os
import resource
import subprocess
import sys
from fractions import Fraction

import av
import decord
import numpy as np
import pytest
from faulty_videos import write_frames
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from numbered_videos import Video, decode, paint, read, remux, write
from tiny_run import ROOT

from mmstop.config import load_config
from mmstop.config_check import check_config
from mmstop.datasets import CheckedDecordInit, VideoError, VideoFile, packets
from mmstop.datasets.packets import Kind
from mmstop.errors import ConfigError

B = {'preset': 'veryfast', 'bf': '3', 'b_adapt': '0', 'sc_threshold': '0', 'g': '24'}
OPEN = {'preset': 'ultrafast', 'x265-params': 'keyint=24:bframes=4:log-level=none'}
LAYERS = {**OPEN, 'x265-params': f'{OPEN["x265-params"]}:temporal-layers=3'}
CLOSED = {**OPEN, 'x265-params': f'{OPEN["x265-params"]}:open-gop=0'}
VP = {'cpu-used': '8', 'g': '24', 'lag-in-frames': '16', 'auto-alt-ref': '1'}
AV1 = {'preset': '8', 'crf': '10', 'g': '24'}
P, PB = {'g': '12'}, {'g': '12', 'bf': '2'}

# What the encoders are told; the names are those of FFmpeg.
CODECS = {
    'libx264': B,
    'libx265': OPEN,
    'libvpx': {**VP, 'deadline': 'good', 'arnr-maxframes': '5'},
    'libvpx-vp9': VP,
    'libsvtav1': AV1,
    'mpeg4': PB,
    'mpeg1video': PB,
    'mpeg2video': PB,
    'wmv2': P,
    'mjpeg': {},
    'prores_ks': {},
    'gif': {},
}
SUFFIXES = (
    'mp4 mov mkv webm avi mpg vob ts wmv gif flv 3gp m4v h264 hevc m2v ivf'.split()
)


def of(suffix, codec='libx264', **changes):
    changes.setdefault('options', CODECS.get(codec, {}))
    if codec == 'libsvtav1':
        changes.setdefault('size', (64, 64))
        changes.setdefault('num', 60)
    return Video(suffix, codec, **changes)


VIDEOS = {
    'mp4': of('mp4'),
    'mov_prores': of('mov', 'prores_ks'),
    'mkv': of('mkv'),
    'webm_vp8': of('webm', 'libvpx'),
    'webm_vp9': of('webm', 'libvpx-vp9'),
    'webm_av1': of('webm', 'libsvtav1'),
    'avi_h264_with_b_frames': of('avi'),
    'avi_xvid_with_b_frames': of('avi', 'mpeg4', tag='XVID'),
    'avi_with_gaps': of('avi', 'mpeg4', options=P, times=lambda i: 3 * i),
    'wmv': of('wmv', 'wmv2'),
    'mpg_mpeg1': of('mpg', 'mpeg1video'),
    'vob_mpeg2': of('vob', 'mpeg2video'),
    'ts': of('ts'),
    'ts_hevc': of('ts', 'libx265'),
    'ts_mpeg2_interlaced': of(
        'ts', 'mpeg2video', options={**PB, 'flags': '+ildct+ilme'}
    ),
    'raw_h264': of('h264'),
    'gif': of('gif', 'gif'),
    'mp4_mpeg4': of('mp4', 'mpeg4'),
    'mp4_mjpeg': of('mp4', 'mjpeg'),
    'mp4_fragmented': of('mp4', muxing={'movflags': 'frag_keyframe+empty_moov'}),
    'webm_live': of('webm', 'libvpx', muxing={'live': '1'}),
    'intra_refresh': of('mp4', options={**B, 'intra-refresh': '1'}),
    'intra_refresh_and_cuts': of(
        'mp4',
        num=200,
        options={'preset': 'veryfast', 'g': '30', 'intra-refresh': '1'},
    ),
    'h264_open_gop': of('mp4', options={**B, 'x264-params': 'open-gop=1'}),
    'hevc_open_gop': of('mkv', 'libx265'),
    'hevc_by_default': of(
        'mkv',
        'libx265',
        num=255,
        options={'preset': 'ultrafast', 'x265-params': 'log-level=none'},
    ),
    'hevc_closed_gop': of('mp4', 'libx265', options=CLOSED, tag='hvc1'),
    'hevc_temporal_layers': of('mkv', 'libx265', options=LAYERS),
    'b_pyramid': of(
        'mp4', options={**B, 'bf': '8', 'refs': '5', 'b-pyramid': 'strict'}
    ),
    'baseline': of('mp4', options={'profile': 'baseline', 'g': '24'}),
    'first_key_frame_only': of('mp4', options={**B, 'g': '9999'}),
    'starts_at_3_s': of('mkv', times=lambda i: i + 75),
    'starts_before_0': of(
        'mkv', times=lambda i: i - 10, muxing={'avoid_negative_ts': 'disabled'}
    ),
    'variable_rate': of('mp4', times=lambda i: i * i),
    'one_frame': of('mp4', num=1),
    'one_frame_avi': of('avi', num=1),
    'rate_0.1': of('mp4', rate=Fraction(1, 10)),
    'rate_240': of('mkv', rate=Fraction(240)),
    'rate_2000': of('mkv', rate=Fraction(2000)),  # time stamps of 1 ms occur twice
    'odd_size': of('mp4', size=(65, 49), pix_fmt='yuv444p'),
    'portrait': of('mp4', size=(48, 64)),
    '10_bit': of('mp4', pix_fmt='yuv420p10le'),
    'full_range': of('mp4', pix_fmt='yuvj420p'),
    'alpha': of('mov', 'prores_ks', pix_fmt='yuva444p10le', options={'profile': '4'}),
    'interlaced': of('mp4', options={**B, 'x264-params': 'tff=1'}),
    'rotated_90': of('mp4', rotation=90),
    'rotated_180': of('mov', rotation=180),
    'rotated_270': of('mkv', 'libvpx-vp9', rotation=270),
    'rotated_270_mpeg4': of('mp4', 'mpeg4', rotation=270),
    'mirrored': of('mp4', mirrored=True),
    'rotated_90_and_mirrored': of('mp4', rotation=90, mirrored=True),
}
CUT = of(
    'mp4', times=lambda i: i - 30, muxing={'avoid_negative_ts': 'disabled'}
)  # an edit list leaves 30 frames out


def assert_exact(path, numbers, turned=False):
    """Compare the reader with decoding from the start: count, order and pixels.

    Args:
        numbers: that were painted into the frames.
        turned: the file says that frames are shown turned, which decoding leaves out.
    """
    truth = decode(path)
    file = VideoFile(str(path))
    assert len(file) == len(truth) == len(numbers)
    everything = file.frames(range(len(file)))
    assert [read(frame) for frame in everything] == list(numbers)
    if not turned:
        assert all(map(np.array_equal, everything, truth))
    last, rng = len(file) - 1, np.random.default_rng(0)
    asked = [np.linspace(0, last, n).astype(int) for n in (1, 12, 64)]
    asked += [
        [last],
        rng.integers(0, len(file), 40),
        [last // 2] * 3,
        range(last, -1, -7),
    ]
    for chosen in asked:
        found = VideoFile(str(path)).frames(chosen)
        assert np.array_equal(found, everything[chosen]), chosen
        assert np.array_equal(file.frames(chosen), found)
    assert everything.shape[1:] == (file.height, file.width, 3)


@pytest.mark.parametrize('name', VIDEOS)
def test_frames_are_exact(name, tmp_path):
    video = VIDEOS[name]
    path = write(video, tmp_path / name)
    turned = bool(video.rotation or video.mirrored)
    assert_exact(path, range(video.num), turned)


@pytest.mark.slow
@pytest.mark.parametrize('suffix', SUFFIXES)
def test_every_container_and_codec_is_exact_or_refused(suffix, tmp_path):
    exact = 0
    for codec in CODECS:
        try:
            video = of(suffix, codec)
            path = write(video, tmp_path / codec)
        except (av.FFmpegError, ValueError):
            continue  # FFmpeg does not write it
        try:
            VideoFile(str(path))
        except VideoError as error:
            assert str(error) in (
                'there is no video in it',
                'there is no decoder for its video',
            )
            with pytest.raises((IndexError, av.FFmpegError)):
                decode(path)
            continue
        assert_exact(path, range(video.num))
        exact += 1
    assert exact


@pytest.mark.slow
@pytest.mark.parametrize('suffix', ['mp4', 'mkv', 'ts', 'avi'])
@pytest.mark.parametrize('codec', ['libx264', 'libx265', 'mpeg4', 'mpeg2video'])
def test_cut_at_any_packet_is_exact(codec, suffix, tmp_path):
    """A copy without its first packets starts with frames that lack what they need."""
    whole = write(of('ts', codec), tmp_path / 'whole')
    for skip in (1, 2, 3, 5, 8, 12, 13, 24, 25, 27):
        try:
            path = remux(whole, tmp_path / f'{skip}.{suffix}', skip)
        except (av.FFmpegError, ValueError):
            continue  # FFmpeg does not write it
        try:
            numbers = [read(frame) for frame in decode(path)]
            assert_exact(path, numbers)
        except (av.FFmpegError, VideoError):
            assert codec == 'never'
        assert numbers[-1] == 99


@pytest.mark.slow
@pytest.mark.parametrize(
    'name',
    [
        'avi_h264_with_b_frames',
        'avi_xvid_with_b_frames',
        'wmv',
        'mpg_mpeg1',
        'vob_mpeg2',
        'ts',
        'cut',
        'intra_refresh_and_cuts',
        'hevc_by_default',
    ],
)
def test_decord_gives_other_frames(name, tmp_path):
    """As MMAction2 opens it. It is why decord is not the default."""
    video = VIDEOS.get(name, CUT)
    path = write(video, tmp_path / name)
    first = 30 if video is CUT else 0
    last = video.num - 1 - first
    asked = [*range(12, last - 4, 25), last - 4, last]
    reader = decord.VideoReader(str(path))
    found = [read(frame) for frame in reader.get_batch(asked).asnumpy()]
    wrong = [(a, b) for a, b in zip(asked, found) if b != a + first]
    print(f'{name}: of {asked}, of {len(reader)} frames, wrong are {wrong}')
    assert wrong


# --- What must be proved before frames are reached by seeking ------------------------


def entries(path):
    """Return how many places of a file can be decoded from; None if not known."""
    index = VideoFile(str(path))._index
    return index and len(index.entries)


def test_decoding_starts_at_frames_that_need_no_other(tmp_path):
    found = {
        name: entries(write(VIDEOS[name], tmp_path / name))
        for name in (
            'mp4',
            'intra_refresh',
            'h264_open_gop',
            'hevc_open_gop',
            'webm_vp8',
        )
    }
    assert found == dict(
        mp4=5, intra_refresh=1, h264_open_gop=1, hevc_open_gop=5, webm_vp8=5
    )


def test_only_progressive_h264_is_reached_by_seeking(tmp_path):
    """Two fields may be two packets; x264 itself writes both into one."""
    for name, params, found in (
        ('tff', 'tff=1', None),
        ('lists', 'cqm=jvt', 5),
        ('order', 'bframes=0:cqm=jvt', 5),
    ):
        for pix_fmt in ('yuv420p', 'yuv444p'):
            options = {**B, 'x264-params': params}
            video = of('mp4', options=options, pix_fmt=pix_fmt)
            assert entries(write(video, tmp_path / f'{name}_{pix_fmt}')) == found


def test_frames_of_an_edit_list_are_left_out(tmp_path):
    """As in an mp4 cut by ``ffmpeg -ss ... -c copy``, which decodes and shows less."""
    path = write(CUT, tmp_path / 'cut')
    assert_exact(path, range(30, 100))
    assert entries(path)


@pytest.mark.parametrize('suffix', ['mp4', 'mkv', 'ts'])
def test_leading_frames_of_a_cut_are_left_out(suffix, tmp_path):
    whole = write(VIDEOS['hevc_open_gop'], tmp_path / 'whole')
    assert_exact(remux(whole, tmp_path / f'cut.{suffix}', 24), range(48, 100))


@pytest.mark.parametrize('lie', ['times of decoding', 'the same time', 'key frames'])
def test_what_a_container_says_is_not_believed(lie, tmp_path):
    whole = write(VIDEOS['h264_open_gop'], tmp_path / 'whole')

    def tell(packet):
        if lie == 'times of decoding':
            packet.pts = packet.dts = max(packet.dts, packet.dts + 10**6)
        elif lie == 'the same time':
            packet.pts = packet.dts // 2 * 2
        else:
            packet.is_keyframe = True

    path = remux(
        whole, tmp_path / f'lie.{"mkv" if "same" in lie else "mp4"}', tell=tell
    )
    assert_exact(path, range(100))
    assert entries(path) == (1 if lie == 'key frames' else None)


def test_wrong_frames_are_noticed_and_decoded_from_the_start(tmp_path, monkeypatch):
    path = write(VIDEOS['mp4'], tmp_path / 'a')
    monkeypatch.setattr(packets, '_inspector', lambda *_: lambda data: Kind(entry=True))
    assert entries(path) > 5
    assert_exact(path, range(100))


def test_hidden_frames_are_not_counted(tmp_path):
    """As VP8 has them for others to refer to."""
    path = write(VIDEOS['webm_vp8'], tmp_path / 'a')
    with av.open(str(path)) as container:
        packet = bytes(list(container.demux(video=0))[30])
    hidden = bytes([packet[0] & ~0x10]) + packet[1:]
    path.write_bytes(path.read_bytes().replace(packet, hidden))
    assert_exact(path, [*range(30), *range(31, 100)])
    assert entries(path) == 5


def test_threads_and_memory_give_the_same_frames(tmp_path):
    path = write(VIDEOS['hevc_open_gop'], tmp_path / 'a')
    truth = np.stack(decode(path))
    chosen = [99, 3, 50, 50, 4]
    for source in (str(path), io.BytesIO(path.read_bytes())):
        found = VideoFile(source, num_threads=3).frames(chosen)
        assert np.array_equal(found, truth[chosen])


def test_many_frames_are_decoded_again_and_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr('mmstop.datasets.video_files.HELD', 20 * 64 * 48 * 3 // 2)
    path = write(VIDEOS['ts'], tmp_path / 'a')
    assert not VideoFile(str(path))._held
    assert_exact(path, range(100))


# --- Pictures ------------------------------------------------------------------------


def test_frames_of_another_size_are_scaled_to_the_first(tmp_path):
    small = write(of('mkv', 'libvpx-vp9', num=30), tmp_path / 'small')
    large = write(of('mkv', 'libvpx-vp9', num=30, size=(128, 96)), tmp_path / 'large')
    path = tmp_path / 'both.mkv'
    with (
        av.open(str(path), 'w') as new,
        av.open(str(small)) as a,
        av.open(str(large)) as b,
    ):
        stream = new.add_stream_from_template(a.streams.video[0])
        for old, start in ((a, 0), (b, 30 * 40)):
            for packet in old.demux(video=0):
                if packet.size:
                    packet.pts, packet.dts = packet.pts + start, packet.dts + start
                    packet.stream = stream
                    new.mux(packet)
    file = VideoFile(str(path))
    frames = file.frames(range(60))
    assert frames.shape == (60, 48, 64, 3)
    assert [read(frame) for frame in frames] == [*range(30), *range(30)]
    assert np.array_equal(file.frames([45])[0], frames[45])


def test_frames_shown_askew_are_refused(tmp_path):
    path = write(of('mp4', rotation=30), tmp_path / 'askew')
    with pytest.raises(VideoError, match='is 330 degrees clockwise, expected a mult'):
        VideoFile(str(path)).frames([0])


def test_colours_are_those_of_the_file(tmp_path):
    for pix_fmt in ('yuv444p', 'yuvj444p'):
        path = tmp_path / f'{pix_fmt}.mp4'
        with av.open(str(path), 'w') as container:
            stream = container.add_stream('libx264', 25, options={'crf': '1'})
            stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
            picture = np.full((48, 64, 3), (200, 100, 50), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture)
            container.mux([*stream.encode(frame), *stream.encode(None)])
        found = VideoFile(str(path)).frames([0])
        assert np.abs(found.astype(int) - (200, 100, 50)).max() < 5


# --- Refusals ------------------------------------------------------------------------


def test_damaged_frames_are_refused(tmp_path):
    path = write(of('mp4', size=(320, 240)), tmp_path / 'a')
    with av.open(str(path)) as container:
        packet = max(list(container.demux(video=0))[30:48], key=lambda p: p.size)
    data = bytearray(path.read_bytes())
    start = packet.pos + packet.size // 3
    data[start : start + packet.size // 2] = np.random.default_rng(0).bytes(
        packet.size // 2
    )
    path.write_bytes(data)
    file = VideoFile(str(path))
    with pytest.raises(VideoError, match='not all frames up to 47 can be|is damaged'):
        file.frames(range(100))
    assert [read(frame) for frame in file.frames([0, 23, 48, 99])] == [0, 23, 48, 99]
    with pytest.raises(VideoError, match='it cannot be decoded .Invalid data found'):
        file.check()


def test_frames_that_refer_to_a_damaged_one_are_refused(tmp_path):
    """FFmpeg marks the frame that it repaired, but not those that are made from it."""
    path = write(of('mp4', size=(320, 240), options={**B, 'bf': '0'}), tmp_path / 'a')
    with av.open(str(path)) as container:
        packet = list(container.demux(video=0))[30]
    data = bytearray(path.read_bytes())
    middle = packet.pos + packet.size // 2
    data[middle : packet.pos + packet.size] = bytes(packet.size - packet.size // 2)
    path.write_bytes(data)
    file = VideoFile(str(path))
    for number in (30, 31, 47):
        with pytest.raises(VideoError, match=f'frames up to {number} can be decoded'):
            file.frames([number])
    assert [read(frame) for frame in file.frames([29, 48])] == [29, 48]


def test_damage_lasts_to_the_next_key_frame(tmp_path):
    video = of('avi', 'mpeg4', size=(320, 240), options={'g': '24'})
    path = write(video, tmp_path / 'a')
    with av.open(str(path)) as container:
        packet = list(container.demux(video=0))[30]
    data = bytearray(path.read_bytes())
    middle = data.index(bytes(packet)) + packet.size // 2
    data[middle : middle + packet.size // 3] = bytes(packet.size // 3)
    path.write_bytes(data)
    file = VideoFile(str(path))
    for number in (30, 31, 47):
        with pytest.raises(VideoError, match=f'frame {number} is damaged, or one'):
            file.frames([number])
    assert [read(frame) for frame in file.frames([29, 48])] == [29, 48]


def test_no_such_frame(tmp_path):
    file = VideoFile(str(write(of('mp4', num=5), tmp_path / 'a')))
    for number in (-1, 5):
        with pytest.raises(VideoError, match=f'has 5 frames, but no number {number}'):
            file.frames([0, number])


def test_a_header_that_claims_much_costs_nothing(tmp_path):
    path = write(of('mkv', 'ffv1', num=2, size=(300, 256)), tmp_path / 'a')
    assert VideoFile(str(path), max_pixels=300 * 256).frames([1]).shape[1] == 256
    data = path.read_bytes()
    for key, old, new in ((b'\xb0\x82', 300, 24_000), (b'\xba\x82', 256, 25_000)):
        data = data.replace(key + old.to_bytes(2, 'big'), key + new.to_bytes(2, 'big'))
    path.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        VideoError, match='is no frame in it, or none of at most max_pixels=33554432'
    ):
        VideoFile(str(path))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 300_000  # kB; a frame of this size takes 1.8 GB


@pytest.mark.parametrize('decoder', ['pyav', 'decord'])
def test_limit_of_pixels_is_an_argument(decoder, tmp_path):
    path = write(of('mp4'), tmp_path / 'a')
    opened = CheckedDecordInit(decoder=decoder, max_pixels=64 * 48)
    assert opened(dict(filename=str(path)))['total_frames'] == 100
    opened = CheckedDecordInit(decoder=decoder, max_pixels=64 * 48 - 1)
    with pytest.raises(VideoError, match='64 x 48 pixels, more than max_pixels=3071'):
        opened(dict(filename=str(path)))


def test_arguments_at_fault():
    for given, match in (
        (dict(decoder='vlc'), r"decoder='vlc', expected one of \['pyav', 'decord'\]"),
        (dict(max_pixels=0), 'max_pixels=0, expected at least 1'),
        (dict(short_side=0), 'short_side=0, expected at least 1'),
        (dict(interpolation='best'), "interpolation='best', expected one of"),
        (dict(max_stale=2), 'CheckedDecordInit does not know max_stale; its arguments'),
    ):
        with pytest.raises(ConfigError, match=match):
            CheckedDecordInit(**given)


def test_picture_of_music_is_no_video(tmp_path):
    path = tmp_path / 'cover.mp4'
    with av.open(str(path), 'w') as container:
        audio = container.add_stream('aac', 8000)
        cover = container.add_stream('mjpeg', 25)
        cover.width, cover.height, cover.pix_fmt = 64, 48, 'yuvj420p'
        cover.disposition = av.stream.Disposition.attached_pic
        sound = av.AudioFrame.from_ndarray(
            np.zeros((1, 8000), np.float32), 'fltp', 'mono'
        )
        sound.sample_rate = 8000
        container.mux([*cover.encode(av.VideoFrame.from_ndarray(paint(3, 64, 48)))])
        container.mux([*audio.encode(sound), *audio.encode(None), *cover.encode(None)])
    with pytest.raises(VideoError, match='there is no video in it'):
        VideoFile(str(path))


# --- The pipeline --------------------------------------------------------------------


@pytest.mark.parametrize('mode', ['accurate', 'efficient'])
@pytest.mark.parametrize(
    'name', ['avi_xvid_with_b_frames', 'hevc_open_gop', 'rotated_90']
)
def test_pipeline_gets_exact_frames(name, mode, tmp_path):
    path = write(VIDEOS[name], tmp_path / name)
    with DefaultScope.overwrite_default_scope('mmaction'):
        pipeline = Compose(
            [
                dict(type='CheckedDecordInit'),
                dict(type='UniformSample', clip_len=12, test_mode=True),
                dict(type='DecordDecode', mode=mode),
            ]
        )
    results = pipeline(dict(filename=str(path), start_index=0))
    assert results['total_frames'] == 100 and results['avg_fps'] == 25
    assert results['original_shape'] == (48, 64)
    assert [read(frame) for frame in results['imgs']] == list(results['frame_inds'])


@pytest.mark.parametrize('name', ['mkv', 'portrait', 'rotated_90', 'mp4_mpeg4'])
@pytest.mark.parametrize('short_side, resized', [(31, True), (64, False)])
def test_frames_made_small_are_those_of_resize(name, short_side, resized, tmp_path):
    path = write(VIDEOS[name], tmp_path / name)
    how = dict(short_side=short_side, interpolation='bicubic')

    def clip(**options):
        with DefaultScope.overwrite_default_scope('mmaction'):
            pipeline = Compose(
                [
                    dict(type='CheckedDecordInit', **options),
                    dict(type='DecordDecode'),
                    lambda results: sizes.add(results['img_shape']) or results,
                    dict(
                        type='Resize', scale=(-1, short_side), interpolation='bicubic'
                    ),
                ]
            )
        return pipeline(dict(filename=str(path), frame_inds=np.arange(5, 99, 20)))

    sizes = set()
    found, whole = clip(**how)['imgs'], clip()['imgs']
    assert np.array_equal(found, whole) and min(found[0].shape[:2]) == short_side
    assert len(sizes) == 1 + resized


def test_other_file_backends_are_read_as_well(tmp_path):
    path = write(VIDEOS['mp4'], tmp_path / 'a')
    reader = CheckedDecordInit(io_backend='local')(dict(filename=str(path)))
    batch = reader['video_reader'].get_batch([7, 90]).asnumpy()
    assert type(batch) is np.ndarray and [read(frame) for frame in batch] == [7, 90]
    path.write_bytes(b'')
    with pytest.raises(VideoError, match='the file is empty'):
        CheckedDecordInit(io_backend='local')(dict(filename=str(path)))


def test_files_are_closed(tmp_path):
    path = str(tmp_path / 'a.mp4')
    write_frames(tmp_path / 'a.mp4')
    before = len(os.listdir('/proc/self/fd'))
    for _ in range(50):
        VideoFile(path).frames([3])
    assert len(os.listdir('/proc/self/fd')) <= before


def test_frames_are_not_made_small_and_large_again():
    cfg = load_config(str(ROOT / 'configs' / 'stop_ssv2.py'))
    check_config(cfg, [])
    steps = cfg.test_dataloader.dataset.pipeline
    for change in (dict(scale=(-1, 336)), dict(interpolation='bicubic')):
        steps[3] = dict(type='Resize', **{'scale': (-1, 256), **change})
        with pytest.raises(
            ConfigError,
            match=r'test_dataloader.*pipeline: frames are made small for Resize',
        ):
            check_config(cfg, [])
    steps[0].pop('short_side')
    check_config(cfg, [])


@pytest.mark.slow
def test_pyav_keeps_its_own_encoders_beside_decord(tmp_path):
    """Loaded first, decord's old libvpx and libx264 take the place of PyAV's."""
    code = (
        'import sys, mmstop.datasets.loading; assert "decord" not in sys.modules\n'
        'import av, decord\n'
        'stream = av.open(sys.argv[1], "w").add_stream("libvpx", rate=25)\n'
        'stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"\n'
        'stream.codec_context.open()\n'
    )
    subprocess.run([sys.executable, '-c', code, tmp_path / 'a.webm'], check=True)
