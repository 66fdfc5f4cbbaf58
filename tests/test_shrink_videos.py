"""Videos made small for training: every frame is the right one, or nothing is there."""

import os
import time
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import shrink_videos as tool
import shrinking
from faulty_videos import write_frames
from numbered_videos import Video, read, write
from shrinking_encoder import small_size

from mmstop.datasets import VideoError
from mmstop.datasets.video_files import VideoFile

WIDE = dict(num=26, size=(96, 64))
# What they become, with a short side of 48: (height, width) and the format by content.
KINDS = {
    'mp4': (Video('mp4', **WIDE), (48, 72), 'mov,mp4'),
    'xvid': (Video('avi', 'mpeg4', options={'bf': '2'}, **WIDE), (48, 72), 'mov,mp4'),
    'webm': (Video('webm', 'libvpx', pix_fmt='yuv420p', **WIDE), (48, 72), 'mov,mp4'),
    'wmv': (Video('wmv', 'wmv2', **WIDE), (48, 72), 'mov,mp4'),
    'ts': (Video('ts', **WIDE), (48, 72), 'mov,mp4'),
    'mkv': (Video('mkv', 'ffv1', pix_fmt='yuv444p', **WIDE), (48, 72), 'matroska'),
    'prores': (Video('mov', 'prores_ks', **WIDE), (48, 72), 'mov,mp4'),
    'gif': (Video('gif', 'gif', pix_fmt='gray', **WIDE), (48, 72), 'mov,mp4'),
    'small': (Video('mkv', 'ffv1', num=5, size=(45, 37)), (36, 44), 'matroska'),
    'left': (Video('mp4', rotation=90, **WIDE), (48, 72), 'mov,mp4'),
    'over': (Video('mp4', rotation=180, **WIDE), (48, 72), 'mov,mp4'),
    'right': (Video('mp4', rotation=270, **WIDE), (48, 72), 'mov,mp4'),
    'mirror': (Video('mp4', mirrored=True, **WIDE), (48, 72), 'mov,mp4'),
    'one': (Video('mp4', num=1), (48, 64), 'mov,mp4'),
    'variable': (Video('mp4', times=lambda i: i * i, **WIDE), (48, 72), 'mov,mp4'),
}


def shrink(path: Path, side: int = 48, fps: Fraction | None = None) -> Path:
    """Shrink a video into the folder 'small' beside it."""
    shrinking.shrink(path.name, path.parent, path.parent / 'small', side, fps)
    return path.parent / 'small' / path.name


def times_of(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [frame.time for frame in container.decode(video=0)]


def numbers_in(path: Path) -> list[int]:
    video = VideoFile(str(path))
    return [read(picture) for picture in video.frames(range(len(video)))]


@pytest.mark.parametrize('kind', KINDS)
def test_all_frames_upright_and_small_at_their_times(kind, tmp_path):
    video, (height, width), name = KINDS[kind]
    source = write(video, tmp_path / 'video')
    result = shrink(source)
    assert numbers_in(result) == list(range(video.num))
    assert VideoFile(str(result)).frames([0]).shape == (1, height, width, 3)
    old = times_of(source)
    assert times_of(result) == pytest.approx([t - old[0] for t in old], abs=1e-3)
    with av.open(str(result)) as container:
        (stream,) = container.streams
        packets = [p for p in container.demux(stream) if p.size]
        assert container.format.name.startswith(name)
        assert stream.codec_context.name == 'h264'
    assert all(p.pts == p.dts for p in packets)  # no B-frames
    keys = [i for i, p in enumerate(packets) if p.is_keyframe]
    assert np.diff([*keys, len(packets)]).max() <= 12


def test_sound_is_left_out_and_colours_stay(tmp_path):
    path = tmp_path / 'video.mkv'
    colours = np.zeros((64, 96, 3), np.uint8)
    colours[:32, :48], colours[32:, :48], colours[:, 48:] = (
        (200, 30, 40),
        90,
        (9, 8, 99),
    )
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', 25)
        sound = container.add_stream('pcm_s16le', 48000, layout='mono')
        stream.height, stream.width, stream.pix_fmt = 64, 96, 'yuv420p'
        stream.codec_context.colorspace = 1  # BT.709
        frame = av.VideoFrame.from_ndarray(colours, 'rgb24')
        frame = frame.reformat(dst_colorspace='ITU709', format='yuv420p')
        noise = av.AudioFrame.from_ndarray(np.ones((1, 1024), np.int16), 's16', 'mono')
        noise.sample_rate = 48000
        for packets in (stream.encode(frame), sound.encode(noise)):
            container.mux(packets)
        for encoder in (stream, sound):
            container.mux(encoder.encode())
    result = shrink(path)
    with av.open(str(result)) as container:
        assert [s.type for s in container.streams] == ['video']
    (picture,) = VideoFile(str(result)).frames([0])
    for y, x in ((10, 10), (40, 10), (24, 60)):
        expected = colours[y * 64 // 48, x * 64 // 48].astype(int)
        assert abs(picture[y, x] - expected).max() <= 4


@pytest.mark.parametrize(
    'height, width, short_side, expected',
    [
        (240, 320, 224, (224, 298)),
        (320, 240, 224, (298, 224)),
        (1080, 1920, 224, (224, 398)),
        (224, 224, 224, (224, 224)),
        (120, 161, 224, (120, 160)),
        (1, 500, 224, (2, 500)),
    ],
)
def test_sides_are_even_and_never_longer(height, width, short_side, expected):
    assert small_size(height, width, short_side) == expected


def test_rate_shows_what_is_on_the_screen(tmp_path):
    """Of frames at 0, 1, 4, 9, ... 25ths of a second, 2.5 a second."""
    source = write(Video('mp4', num=12, times=lambda i: i * i), tmp_path / 'video')
    with av.open(str(source)) as container:
        assert container.streams.video[0].average_rate > Fraction(5, 2)
        *_, last = container.decode(video=0)
    end = round(25 * (last.pts + last.duration) * last.time_base)
    result = shrink(source, fps=Fraction(5, 2))
    ticks = range(0, end, 10)
    assert numbers_in(result) == [min(11, int(np.sqrt(tick))) for tick in ticks]
    assert np.diff(times_of(result)) == pytest.approx(0.4)


def test_rate_above_the_source_s_keeps_all_frames(tmp_path):
    source = write(Video('mp4', num=8), tmp_path / 'video')
    assert numbers_in(shrink(source, fps=Fraction(30))) == list(range(8))
    assert numbers_in(shrink(source, fps=Fraction(25, 2))) == [0, 2, 4, 6]


# --- Comparing ----------------------------------------------------------------------


def test_a_wrong_frame_is_found(tmp_path):
    source = write(Video('mkv', 'ffv1', num=9, size=(96, 64)), tmp_path / 'video')
    old, new = VideoFile(str(source)), VideoFile(str(shrink(source)))
    right = list(range(9))
    shrinking.check(old, new, right)
    for place in (0, 4, 8):
        for other in {0, place - 1, place + 1, 8} & set(range(9)) - {place}:
            wrong = [other if i == place else i for i in right]
            message = rf'frame {place} of the result is not frame {other} of the source'
            with pytest.raises(VideoError, match=message):
                shrinking.check(old, new, wrong)
    with pytest.raises(VideoError, match='the result has 9 frames, expected 8'):
        shrinking.check(old, new, right[:8])


def write_pictures(path: Path, pictures) -> VideoFile:
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('ffv1', 25)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = 'yuv420p'
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, 'rgb24')))
        container.mux(stream.encode())
    return VideoFile(str(path))


def test_a_small_thing_that_moves_slowly_tells_frames_apart(tmp_path):
    """And a noisy picture that does not move is no error."""
    rng = np.random.default_rng(0)
    scene = rng.integers(90, 160, (12, 16, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    moving, still = [], []
    for t in range(13):
        moving.append(scene.copy())
        moving[-1][90:106, 100 + 3 * t : 116 + 3 * t] = 250
        still.append((scene + rng.normal(0, 6, scene.shape)).clip(0, 255).astype('u1'))
    old = write_pictures(tmp_path / 'moving.mkv', moving)
    new = VideoFile(str(shrink(tmp_path / 'moving.mkv', side=96)))
    with pytest.raises(VideoError, match='is not frame'):
        shrinking.check(old, new, [0, *range(12)])
    write_pictures(tmp_path / 'still.mkv', still)
    assert len(VideoFile(str(shrink(tmp_path / 'still.mkv')))) == 13


def test_damage_is_not_painted_over(tmp_path):
    path = tmp_path / 'x.avi'
    avi = bytearray(write_frames(path, fourcc='XVID'))
    at = avi.index(b'movi') + 4
    for frame in range(16):  # the second half of every frame but the first is zeros
        size = int.from_bytes(avi[at + 4 : at + 8], 'little')
        if frame:
            avi[at + 8 + size // 2 : at + 8 + size] = bytes(size - size // 2)
        at += 8 + size + size % 2
    path.write_bytes(avi)
    with pytest.raises(av.InvalidDataError):
        shrink(path)
    assert not list((tmp_path / 'small').iterdir())


# --- Whole or not there -------------------------------------------------------------


def test_what_is_finished_is_known(tmp_path):
    source = write(Video('mp4', num=20), tmp_path / 'video')
    result = shrink(source)

    def remade(**options) -> bool:
        before = result.stat().st_ino
        shrink(source, **options)
        return result.stat().st_ino != before

    assert not remade()
    assert remade(side=32) and remade() and remade(fps=Fraction(5)) and remade()
    whole = result.read_bytes()
    result.write_bytes(whole[: len(whole) // 2])
    assert remade()
    middle = len(whole) // 2
    result.write_bytes(whole[:middle] + bytes(200) + whole[middle + 200 :])
    assert remade()
    os.utime(source, ns=(0, 0))
    assert remade() and not remade()


def test_other_people_s_videos_stay(tmp_path):
    source = write(Video('mp4', num=3), tmp_path / 'video')
    (tmp_path / 'small').mkdir()
    other = write(Video('mp4', num=4), tmp_path / 'small' / 'video')
    content = other.read_bytes()
    with pytest.raises(VideoError, match='video.mp4 exists and was not made by this'):
        shrink(source)
    assert other.read_bytes() == content


@pytest.mark.parametrize('step', ['encode', 'check', 'os.replace'])
def test_nothing_is_there_until_all_is_done(step, tmp_path, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(f'shrinking.{step}', stop)
    source = write(Video('mp4', num=3), tmp_path / 'video')
    with pytest.raises(KeyboardInterrupt):
        shrink(source)
    assert not list((tmp_path / 'small').iterdir())


# --- The tool -----------------------------------------------------------------------


@pytest.fixture
def here(monkeypatch):
    """Work in this process, which takes no time to start."""

    def try_here(check, paths, workers, timeout):
        for path in paths:
            try:
                yield check(path)
            except (VideoError, av.FFmpegError) as error:
                yield str(error)

    monkeypatch.setattr(tool, 'try_videos', try_here)


@pytest.fixture
def tree(tmp_path):
    """Three videos in two folders, one of which is broken."""
    for name in ('a/one', 'b/c/two'):
        path = tmp_path / 'videos' / name
        path.parent.mkdir(parents=True)
        write(Video('avi', 'mpeg4', num=5), path)
    (tmp_path / 'videos' / 'broken.mp4').write_bytes(b'<html>' * 100)
    return tmp_path


def shrink_tree(tree: Path, *options: object) -> int:
    arguments = [tree / 'videos', tree / 'small', '--short-side', 32, *options]
    return tool.main([str(argument) for argument in arguments])


def test_tree_is_kept_and_failures_are_listed(tree, here, capsys):
    assert shrink_tree(tree, '--failed', tree / 'failed.txt') == 1
    kept = sorted(p for p in (tree / 'small').rglob('*') if p.is_file())
    assert kept == [tree / 'small' / name for name in ('a/one.avi', 'b/c/two.avi')]
    (line,) = (tree / 'failed.txt').read_text().splitlines()
    assert line.startswith(f'{tree}/videos/broken.mp4\t')
    output = capsys.readouterr().out
    assert line in output and '0 more videos take about' in output
    assert f'2 of 3 videos are in {tree}/small' in output
    assert 'files named .avi have MP4 content' in output
    (tree / 'videos' / 'broken.mp4').unlink()
    (tree / 'small' / 'a' / 'one.avi.123.part').write_bytes(b'')  # of a killed process
    assert shrink_tree(tree) == 0
    assert not list((tree / 'small').rglob('*.part'))


def test_space_is_estimated_from_a_sample(tree, here, capsys, monkeypatch):
    monkeypatch.setattr(tool, 'SAMPLE', 1)
    monkeypatch.setattr(
        tool.shutil, 'disk_usage', lambda path: SimpleNamespace(free=10)
    )
    assert shrink_tree(tree) == 2
    error = capsys.readouterr().err
    assert '2 more videos take about 0.00 GB, since those so far became' in error
    assert '0.00 GB are free. Free some space, or choose' in error
    assert [p.name for p in (tree / 'small').rglob('*.*')] == ['one.avi']


def test_sample_that_fails_tells_nothing_of_space(tree, here, capsys, monkeypatch):
    monkeypatch.setattr(tool, 'SAMPLE', 1)
    (tree / 'videos' / 'a' / 'one.avi').write_bytes(b'')
    assert shrink_tree(tree) == 1
    assert 'the space needed is unknown' in capsys.readouterr().out


def test_two_runs_do_not_share_a_folder(tree, here, capsys):
    (tree / 'small').mkdir()
    fork = get_context('fork')
    ours, theirs = fork.Pipe()

    def hold():
        with tool.locked(tree / 'small'):
            theirs.send('locked')
            theirs.recv()

    other = fork.Process(target=hold)
    other.start()
    assert ours.recv() == 'locked'
    assert shrink_tree(tree) == 2
    assert 'small: another run is writing to it' in capsys.readouterr().err
    ours.send('go')
    other.join()
    assert not list((tree / 'small').iterdir())


BAD_ARGUMENTS = {
    'odd': (['--short-side', '225'], '--short-side 225: expected an even number of'),
    'tiny': (['--short-side', '8'], '--short-side 8: expected an even number of at'),
    'rate': (['--fps', '0'], '--fps 0: expected more than 0'),
    'workers': (['--workers', '0'], '--workers 0: expected at least 1'),
    'timeout': (['--timeout', '0'], '--timeout 0: expected more than 0 seconds'),
}


@pytest.mark.parametrize('case', BAD_ARGUMENTS)
def test_bad_argument_is_one_line(case, tree, capsys):
    options, message = BAD_ARGUMENTS[case]
    assert shrink_tree(tree, *options) == 2
    assert f'error: {message}' in capsys.readouterr().err


def test_bad_folder_is_one_line(tree, capsys):
    videos = tree / 'videos'
    (tree / 'file').write_text('')
    (tree / 'empty').mkdir()
    for source, target, message in (
        (tree / 'none', tree / 'small', 'none: there is no such folder'),
        (videos, videos, 'it is, contains or lies inside the folder of the videos'),
        (videos, videos / 'small', 'it is, contains or lies inside the folder'),
        (videos, tree, 'it is, contains or lies inside the folder of the videos'),
        (videos, tree / 'file', 'file: it is a file, expected a folder'),
        (tree / 'empty', tree / 'small', 'a folder without a video'),
    ):
        assert tool.main([str(source), str(target)]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path):
    """Killed amid its videos, it leaves none that is not whole."""
    videos, small = tmp_path / 'videos', tmp_path / 'small'
    videos.mkdir()
    for i in range(12):
        write(Video('mp4', num=60, size=(320, 240)), videos / str(i))
    arguments = [str(videos), str(small), '--workers', '2']
    process = get_context('fork').Process(target=tool.main, args=(arguments,))
    process.start()
    while process.is_alive() and len(list(small.glob('*.mp4'))) < 3:
        time.sleep(0.01)
    process.kill()
    process.join()
    made = {path: path.stat().st_ino for path in small.glob('*.mp4')}
    assert 3 <= len(made) < 12
    for path in made:
        assert numbers_in(path) == list(range(60))
    assert tool.main(arguments) == 0
    assert len(list(small.iterdir())) == 12
    assert all(path.stat().st_ino == inode for path, inode in made.items())
