"""Bad videos: each is named or, where the config says so, replaced and counted."""

import importlib.util
import json
import os
import re
import sys
from types import SimpleNamespace

import decord
import numpy as np
import pytest
import torch
from faulty_videos import (
    write_bad_videos,
    write_changing_size,
    write_frames,
    write_losing,
    write_odd_videos,
)
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, DefaultScope, init_default_scope
from mmengine.runner import Runner
from test_tools import train
from tiny_run import (
    COLOURS,
    ROOT,
    run,
    tiny_config,
    write_tiny_retrieval,
    write_tiny_run,
    write_video,
)
from torch.utils.data import DataLoader

from mmstop.compat.reader import read
from mmstop.datasets import VideoError
from mmstop.datasets.containers import missing_bytes
from mmstop.datasets.loading import open_video
from mmstop.engine import BadVideoHook

NUM_FRAMES = 32  # of a clip: nearly all of a video
TRAIN = ROOT / 'tools' / 'train.py'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Bad videos and odd ones, a good one before and after, and lists of them."""
    folder = tmp_path_factory.mktemp('data')
    videos = folder / 'videos'
    causes = write_bad_videos(videos)
    odd = write_odd_videos(videos)
    write_frames(videos / 'good.mp4')
    (folder / 'causes.json').write_text(json.dumps(causes))
    for name, names in (('bad', causes), ('odd', odd)):
        (folder / f'{name}.txt').write_text(''.join(f'{n} 1\n' for n in names))
        captions = {n: ['a caption', 'another'] for n in names}
        (folder / f'{name}.json').write_text(json.dumps(captions))
    return folder


def build(folder, ann_file, **options):
    """A data set of small clips; captions where the file is JSON."""
    dataset = tiny_config(folder)['train_dataloader']['dataset']
    dataset['pipeline'][1]['clip_len'] = NUM_FRAMES
    dataset.update(ann_file=ann_file, **options)
    if ann_file.endswith('.json'):
        dataset['type'] = 'VideoCaptionDataset'
    with DefaultScope.overwrite_default_scope('mmaction'):
        return DATASETS.build(dataset)


# --- A bad video is named -----------------------------------------------------------


@pytest.mark.parametrize('ann_file', ['bad.txt', 'bad.json'])
@pytest.mark.parametrize('test_mode', [False, True])
def test_bad_video_is_named_with_its_entry_and_cause(ann_file, test_mode, folder):
    causes = json.loads((folder / 'causes.json').read_text())
    items = build(folder, ann_file, test_mode=test_mode)
    seen = set()
    for i in range(len(items)):
        name = items.get_data_info(i)['filename'].rpartition('/')[2]
        line = 1 + list(causes).index(name)
        entry = f'line {line}' if ann_file == 'bad.txt' else f"entry '{name}'"
        message = rf'videos/{name} \({entry} of \S+/{ann_file}\): .*{causes[name]}'
        with pytest.raises(VideoError, match=message):
            items[i]
        seen.add(name)
    assert seen == set(causes)


def test_no_frame_is_repeated_for_one_that_is_missing(folder):
    """Packets without a picture are no frames; decord repeats others for them."""
    path = write_losing(folder / 'stale.mp4', [10, 20])
    reader = open_video(path)
    assert len(reader) == 30
    clip = reader.get_batch(range(30)).asnumpy()
    assert not (clip[1:] == clip[:-1]).all((1, 2, 3)).any()
    with pytest.raises(decord.DECORDLimitReachedError):
        open_video(path, decoder='decord').get_batch(range(32))


def test_frames_of_another_size_are_scaled_to_the_first(folder):
    path = write_changing_size(folder / 'two_sizes.ts')
    clip = open_video(path).get_batch(range(32)).asnumpy()
    assert clip.shape == (32, 64, 64, 3)
    assert not (clip[1:] == clip[:-1]).all((1, 2, 3)).any()


@pytest.mark.parametrize('ann_file', ['odd.txt', 'odd.json'])
def test_odd_video_is_used(ann_file, folder):
    items = build(folder, ann_file)
    for i in range(len(items)):
        clip = items[i]['inputs']
        name = items.get_data_info(i)['filename']
        still = (clip[:, :, 1:] == clip[:, :, :-1]).all()
        assert clip.shape == (1, 3, NUM_FRAMES, 32, 32) and clip.float().std() > 10
        assert bool(still) == name.endswith('one_frame.mp4')


def test_variable_rate_is_sampled_by_frame(folder):
    path = str(folder / 'videos' / 'variable_rate.mp4')
    assert len(open_video(path)) == 8
    reader = decord.VideoReader(path)
    starts = reader.get_frame_timestamp(range(len(reader)))[:, 0]
    assert starts == pytest.approx(np.arange(8) / 50, abs=1e-3)
    last = reader.get_frame_timestamp(7)
    assert last[1] - last[0] == pytest.approx(9 / 50, abs=1e-3)


def test_damaged_avi_is_refused(folder):
    """Opened from memory, it kills: decord reads past the end."""
    avi = write_frames(folder / 'junk.avi', fourcc='XVID')
    half = len(avi) // 2
    junk = np.random.default_rng(0).bytes(len(avi) - half)
    (folder / 'junk.avi').write_bytes(avi[:half] + junk)
    with pytest.raises(VideoError, match='ends at frame 6 of the 32 in its header'):
        open_video(str(folder / 'junk.avi'))


@pytest.mark.parametrize(
    'name, fourcc',
    [('x.mp4', 'mp4v'), ('x.avi', 'XVID'), ('x.mkv', 'XVID')],
)
def test_missing_bytes_are_counted(name, fourcc, tmp_path):
    whole = write_frames(tmp_path / name, fourcc=fourcc)
    for lost in (0, 100, len(whole) // 2):
        (tmp_path / name).write_bytes(whole[: len(whole) - lost])
        with (tmp_path / name).open('rb') as file:
            found = missing_bytes(file)
        # An MP4 file of OpenCV ends with its index; of half a file, only the frames.
        assert found == lost or (name == 'x.mp4' and 0 < found <= lost)
    (tmp_path / name).write_bytes(whole + b'junk at the end')
    with (tmp_path / name).open('rb') as file:
        assert missing_bytes(file) == 0


# --- A bad video is replaced --------------------------------------------------------


@pytest.fixture(scope='module')
def mixed(folder):
    """A list with every other video bad, the last one too."""
    names = [n for n in json.loads((folder / 'causes.json').read_text())][:4]
    for i in range(4):
        write_video(folder / 'videos' / f'good_{i}.mp4', list(COLOURS.values())[i % 3])
    names = [name for i in range(4) for name in (f'good_{i}.mp4', names[i])]
    (folder / 'mixed.txt').write_text(
        ''.join(f'{n} {i}\n' for i, n in enumerate(names))
    )
    captions = {n: [f'{i} a', f'{i} b', f'{i} c'] for i, n in enumerate(names)}
    (folder / 'mixed.json').write_text(json.dumps(captions))
    return folder


@pytest.mark.filterwarnings('ignore:skipped')
@pytest.mark.parametrize(
    'workers',
    [
        {},
        dict(start='fork'),
        pytest.param(dict(start='spawn', persistent=True), marks=pytest.mark.slow),
    ],
)
def test_next_video_replaces_a_bad_one(workers, mixed):
    items = build(mixed, 'mixed.txt', on_error='skip')
    processes = {}
    if workers:
        processes = dict(num_workers=2, multiprocessing_context=workers['start'])
        processes['persistent_workers'] = workers.get('persistent', False)
    loader = DataLoader(items, batch_size=2, collate_fn=pseudo_collate, **processes)
    samples = [s for batch in loader for s in batch['data_samples']]
    labels = [s.gt_label.item() for s in samples]
    assert labels == [0, 2, 2, 4, 4, 6, 6, 0]
    lost = [s.get('lost_videos', []) for s in samples]
    assert [len(texts) for texts in lost] == [0, 1] * 4
    assert 'empty.mp4 (line 4 of ' in lost[3][0] and 'is empty' in lost[3][0]


@pytest.mark.filterwarnings('ignore:skipped')
def test_other_captions_of_a_bad_video_are_not_tried(mixed):
    items = build(mixed, 'mixed.json', on_error='skip')
    sample = items[3]['data_samples']  # the first of three captions of a bad video
    assert sample.video_id == 'good_1.mp4'
    assert len(sample.lost_videos) == 1


@pytest.mark.filterwarnings('ignore:skipped')
def test_skipping_is_said_and_ends(folder):
    items = build(folder, 'bad.txt', on_error='skip', max_refetch=2)
    with pytest.warns(
        UserWarning, match=r'skipped .*missing.mp4 \(line 1 of .*no such'
    ):
        with pytest.raises(VideoError, match='3 videos in a row cannot be used'):
            items[0]
    items = build(folder, 'bad.txt', on_error='skip', max_refetch=1000)
    with pytest.warns(UserWarning), pytest.raises(VideoError, match='9 videos in a'):
        items[4]


def test_nothing_is_skipped_in_testing(folder):
    with pytest.raises(
        ValueError, match='metric without some of the videos is a different'
    ):
        build(folder, 'bad.txt', on_error='skip', test_mode=True)
    with pytest.raises(
        ValueError, match="on_error='ignore', expected 'raise' or 'skip"
    ):
        build(folder, 'bad.txt', on_error='ignore')


def test_pipeline_that_gives_nothing_is_an_error(folder):
    items = build(folder, 'odd.txt', pipeline=[lambda results: None])
    with pytest.raises(VideoError, match='the pipeline returned None for it'):
        items[0]


# --- A run --------------------------------------------------------------------------


def spoil(config, *names, on_error='skip', max_bad=0.5):
    """Empty some videos of a tiny run; let its training skip them."""
    for name in names:
        (config.parent / 'videos' / name).write_bytes(b'')
    cfg = Config.fromfile(config)
    cfg.train_dataloader.dataset.on_error = on_error
    cfg.custom_hooks += [dict(type='BadVideoHook', max_bad=max_bad)]
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.dump(config)
    return config


@pytest.mark.parametrize(
    'write',
    [write_tiny_run, pytest.param(write_tiny_retrieval, marks=pytest.mark.slow)],
)
def test_losses_of_an_epoch_are_listed(write, tmp_path, capfd):
    config = spoil(write(tmp_path), 'a/green.mp4')
    assert train.main([str(config), '--work-dir', str(tmp_path / 'work')]) == 0
    num = 1 if write is write_tiny_run else 2  # captions
    listed = capfd.readouterr().out.split(f'{num} videos of epoch ')
    assert len(listed) == 3  # two epochs
    for text in listed[1:]:
        assert text.count('videos/a/green.mp4 (') >= num
        assert 'the file is empty' in text


def test_batches_without_samples_lose_nothing():
    """MMAction2's vis_scheduler.py trains on numbers."""
    loader = SimpleNamespace(dataset=range(4))
    runner, hook = SimpleNamespace(train_dataloader=loader), BadVideoHook()
    hook.before_train_epoch(runner)
    hook.after_train_iter(runner, 0, torch.arange(4), None)
    assert not hook.lost


@pytest.mark.parametrize('workers', [pytest.param(0, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize(
    'policy, message',
    [
        (dict(on_error='raise'), r'videos/b/red.mp4 \(line 2 of .*train.txt\): the fi'),
        (dict(max_bad=0.1), r'1 videos cannot be used, more than max_bad=0.1 of the 6'),
    ],
    ids=['raise', 'skip'],
)
def test_run_ends_with_one_error(policy, message, workers, tmp_path):
    config = spoil(write_tiny_run(tmp_path), 'b/red.mp4', **policy)
    cfg = Config.fromfile(config)
    cfg.train_dataloader.num_workers = workers
    cfg.work_dir = str(tmp_path / 'work')
    init_default_scope('mmaction')
    with pytest.raises(VideoError, match=message):
        Runner.from_cfg(cfg).train()


HANG = """
import time
from types import SimpleNamespace
from mmcv.transforms import BaseTransform
from mmstop.registry import TRANSFORMS

@TRANSFORMS.register_module()
class Hang(BaseTransform):
    def transform(self, results):
        if results['filename'].endswith('b/red.mp4'):
            time.sleep(1000)
        return results
"""


def test_time_limit_is_positive(folder):
    for timeout in (0, -1, float('nan')):
        with pytest.raises(ValueError, match=f'timeout={timeout}, expected more than'):
            build(folder, 'odd.txt', timeout=timeout)


def test_video_that_is_never_read_is_named(tmp_path):
    config = spoil(write_tiny_run(tmp_path))
    cfg = Config.fromfile(config)
    (tmp_path / 'hang.py').write_text(HANG)
    cfg.custom_imports.imports = ['mmstop', 'hang']
    cfg.train_dataloader.num_workers = 1
    cfg.train_dataloader.dataset.timeout = 2
    cfg.train_dataloader.dataset.pipeline.insert(0, dict(type='Hang'))
    cfg.dump(config)
    path = f'{tmp_path}{os.pathsep}{ROOT}'
    result = run(sys.executable, TRAIN, config, PYTHONPATH=path)
    assert result.returncode != 0
    assert re.search(
        r'error: \S+/b/red.mp4 \(line 2 of \S+train.txt\) was not read within 2 s',
        result.stderr,
    )
    assert 'exited unexpectedly' in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize('max_bad, status', [(0.5, 0), (0.1, 1)])
def test_run_of_two_processes(max_bad, status, tmp_path):
    config = spoil(write_tiny_run(tmp_path), 'b/red.mp4', max_bad=max_bad)
    result = run(ROOT / 'tools' / 'dist_train.sh', config, 2)
    output = result.stdout + result.stderr
    assert (result.returncode != 0) == bool(status), output
    if status:
        assert 'more than max_bad=0.1 of the 3 items' in output
    else:
        assert output.count('1 videos of epoch ') == 2


@pytest.mark.slow
def test_resumed_run_replaces_as_an_undisturbed_one(tmp_path):
    config = spoil(write_tiny_run(tmp_path), 'a/green.mp4', 'b/blue.mp4')
    options = ['--cfg-options', 'train_dataloader.num_workers=2']
    for folder, epochs in (('whole', 3), ('parts', 2), ('parts', 3)):
        arguments = [str(config), '--resume', '--work-dir', str(tmp_path / folder)]
        arguments += [*options, f'train_cfg.max_epochs={epochs}']
        assert train.main(arguments) == 0
    whole, parts = (
        read(tmp_path / name / 'epoch_3.pth')['state_dict']
        for name in ('whole', 'parts')
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


# --- The tool -----------------------------------------------------------------------


def check_videos(*arguments) -> int:
    """Run the tool in this process; return its exit status."""
    path = ROOT / 'tools' / 'analysis' / 'check_videos.py'
    spec = importlib.util.spec_from_file_location('tool_check_videos', path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool.main([*map(str, arguments), '--workers', '2'])


def test_tool_lists_bad_videos_and_writes_clean_lists(tmp_path, capsys):
    config = write_tiny_run(tmp_path)
    (tmp_path / 'videos' / 'a' / 'blue.mp4').write_bytes(b'')
    (tmp_path / 'videos' / 'b' / 'red.mp4').unlink()
    out = tmp_path / 'bad.txt'
    assert check_videos(config, '--out', out, '--write-clean') == 1
    rows = [line.split('\t') for line in out.read_text().splitlines()]
    train, test = str(tmp_path / 'train.txt'), str(tmp_path / 'test.txt')
    assert rows == [
        [f'{tmp_path}/{folder}/{video}', path, line, fault]
        for folder, path in (('videos', train), ('test_videos', test))
        for video, line, fault in (
            ('b/red.mp4', '2', 'there is no such file'),
            ('a/blue.mp4', '5', 'the file is empty'),
        )
    ]
    lines = (tmp_path / 'train.txt').read_text().split('\n')
    assert (tmp_path / 'train_clean.txt').read_text().split('\n') == [
        line for i, line in enumerate(lines) if i not in (1, 4)
    ]
    assert f'{train}: 2 of 6 videos are bad' in capsys.readouterr().out
    options = ['train_dataloader', 'test_dataloader', 'val_dataloader']
    options = [f'{o}.dataset.ann_file={o.split("_")[0]}_clean.txt' for o in options]
    options[2] = 'val_dataloader.dataset.ann_file=test_clean.txt'
    assert check_videos(config, '--cfg-options', *options) == 0


def test_tool_on_captions(tmp_path, capsys):
    config = write_tiny_retrieval(tmp_path)
    (tmp_path / 'videos' / 'b' / 'red.mp4').write_bytes(b'')
    assert check_videos(config, '--split', 'train', '--write-clean') == 1
    captions = json.loads((tmp_path / 'train.json').read_text())
    del captions['b/red.mp4']
    assert json.loads((tmp_path / 'train_clean.json').read_text()) == captions
    assert not (tmp_path / 'test_clean.json').exists()
    (tmp_path / 'train.json').write_text('{')
    assert check_videos(config) == 2
    assert 'train.json: not a whole JSON file' in capsys.readouterr().err


def test_what_a_decoder_paints_over_is_found(tmp_path, capsys):
    config = write_tiny_run(tmp_path)
    path = tmp_path / 'videos' / 'a' / 'red.mp4'
    avi = bytearray(write_frames(tmp_path / 'x.avi', fourcc='XVID'))
    at = avi.index(b'movi') + 4
    for frame in range(16):  # the second half of every frame but the first is zeros
        size = int.from_bytes(avi[at + 4 : at + 8], 'little')
        if frame:
            avi[at + 8 + size // 2 : at + 8 + size] = bytes(size - size // 2)
        at += 8 + size + size % 2
    path.write_bytes(avi)
    assert check_videos(config, '--split', 'train') == 1
    assert 'frame 3 is damaged' in capsys.readouterr().out
    assert check_videos(config, '--decode', 'full', '--split', 'train') == 1
    assert 'Invalid data found' in capsys.readouterr().out
