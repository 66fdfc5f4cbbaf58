"""Extracted frames: the right ones in training and testing, or one error."""

import importlib.util
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, DefaultScope, init_default_scope
from mmengine.runner import Runner
from tiny_run import COLOURS, ROOT, tiny_config, write_tiny_retrieval
from torch.utils.data import DataLoader

from mmstop.config import load_config, use_rawframes
from mmstop.config_check import check_config
from mmstop.datasets import AnnotationError, VideoError, load_frame_labels
from mmstop.errors import ConfigError

TOTAL = 9  # frames of a folder


def write_frame(path: Path, number: int, colour=(90, 90, 90), size: int = 32) -> None:
    """Write a picture in a colour, with its number in the brightness of one half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.full((size, size, 3), colour[::-1], np.uint8)
    picture[: size // 2] = 20 * number
    assert cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, 98])


@pytest.fixture
def folder(tmp_path):
    """Six folders of frames, two of a colour, and their lists."""
    lines = []
    for label, (name, colour) in enumerate(COLOURS.items()):
        for take in ('a', 'b b'):
            for i in range(1, TOTAL + 1):
                path = tmp_path / 'rawframes' / take / name / f'img_{i:05}.jpg'
                write_frame(path, i, colour)
            lines.append(f'{take}/{name} {TOTAL} {label}')
    (tmp_path / 'test_rawframes').symlink_to('rawframes')
    for name in ('train', 'test'):
        (tmp_path / f'{name}_rawframes.txt').write_text('\n'.join(lines))
    return tmp_path


def load(folder, **options) -> Config:
    """A config for videos that was made to read frames."""
    cfg = Config(tiny_config(folder))
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        dataset.ann_file = dataset.ann_file.replace('.', '_videos.')
    use_rawframes(cfg)
    cfg.merge_from_dict(options)
    return cfg


def build(folder, clip_len: int = 4, **options):
    sample = dict(type='UniformSample', clip_len=clip_len, test_mode=True)
    kinds = ['CheckedRawFrameDecode', 'FormatShape', 'PackActionInputs']
    pipeline = [sample, *(dict(type=kind) for kind in kinds)]
    pipeline[2]['input_format'] = 'NCTHW'
    dataset = dict(
        type='CheckedRawframeDataset',
        data_root=str(folder),
        data_prefix=dict(img='rawframes'),
        ann_file='train_rawframes.txt',
        pipeline=pipeline,
        serialize_data=False,
    )
    with DefaultScope.overwrite_default_scope('mmaction'):
        return DATASETS.build({**dataset, **options})


# --- Lists --------------------------------------------------------------------------


@pytest.fixture
def read(tmp_path):
    def read(content, **options):
        (tmp_path / 'list.txt').write_text(content)
        entries = load_frame_labels(tmp_path / 'list.txt', **options)
        return [tuple(entry) for entry in entries]

    return read


def test_lists_are_understood(read):
    plain = [('a', 12, 1, 1), ('b/c', 3, 0, 3)]
    for content in ('a 12 1\n\nb/c 3 0', '\ufeffa 12 1\r\n\r\nb/c  3  0 \r\n'):
        assert read(content) == plain
    assert read('my clip 7 12 1') == [('my clip 7', 12, 1, 1)]
    assert read('a b,12,1', delimiter=',') == [('a b', 12, 1, 1)]
    several = read('a 12 1 3\nb 5', multi_class=True)
    assert several == [('a', 12, [1, 3], 1), ('b', 5, [], 2)]
    assert read('a b 12\nc 5', unlabelled=True) == [('a b', 12, -1, 1), ('c', 5, -1, 2)]
    assert read('a 12 4', unlabelled=True) == [('a', 12, 4, 1)]


BAD_LISTS = {
    'empty': ('\n', {}, 'it has no videos'),
    'videos': ('a.mp4 3', {}, "line 1: 'a.mp4 3' is not a folder, the number of its"),
    'one_of_videos': ('a 5 1\nb 3', {}, "line 2: 'b 3' is not a folder, the number"),
    'comma': (
        'a,5,1',
        {},
        "in between. It has a comma: set delimiter=','",
    ),
    'no_frames': ('a 0 1', {}, "line 1: 'a 0 1' is not a folder"),
    'negative': ('a -2 1', {}, "line 1: 'a -2 1' has -2 frames; correct or remove"),
    'negative_label': ('a 2 -1', {}, "line 1: 'a 2 -1' has the label -1; labels start"),
    'twice': ('a 5 1\nb 2 1\na 6 2', {}, "lines 1 and 3 both name 'a'; remove one"),
    'words': ('a b 5 1', dict(multi_class=True), "line 1: 'a b 5 1' is not a folder"),
    'no_labels': ('a 5\nb 6', dict(multi_class=True), 'no line has a label after the'),
    'one_has_none': ('a 5 1\nb', dict(unlabelled=True), "line 2: 'b' is not a folder"),
}


@pytest.mark.parametrize('case', BAD_LISTS)
def test_bad_line_is_named(case, read):
    content, options, message = BAD_LISTS[case]
    with pytest.raises(AnnotationError, match=rf'list\.txt.*{message}'):
        read(content, **options)


# --- Frames -------------------------------------------------------------------------


@pytest.mark.parametrize('start', [0, 1, 5])
def test_frames_are_those_of_the_list(start, folder):
    """The sampler's frames, counted from the first one."""
    for path in (folder / 'rawframes' / 'a' / 'red').iterdir():
        path.unlink()
    for i in range(TOTAL):
        write_frame(folder / 'rawframes' / 'a' / 'red' / f'{start + i}.png', i)
    pipeline = load(folder).test_dataloader.dataset.pipeline
    pipeline[0].clip_len = 4
    items = build(folder, start_index=start, filename_tmpl='{}.png')
    clip = items[0]['inputs']  # (1, 3, T, H, W)
    assert clip.shape == (1, 3, 4, 32, 32)
    # Four segments of nine frames: 0, 2, 4, 6, and the middle of each.
    assert clip[0, :, :, 0, 0].unique(dim=0).flatten().tolist() == [20, 60, 100, 140]
    assert (clip[0, :, :, -1] == 90).all()


def test_the_same_frame_twice_is_two_pictures(folder):
    items = build(folder, pipeline=[dict(type='CheckedRawFrameDecode'), lambda r: r])
    info = dict(items.get_data_info(0), frame_inds=np.array([3, 1, 3]))
    first, second, third = items.pipeline(info)['imgs']
    assert [round(i[0, 0].mean() / 20) for i in (first, second, third)] == [3, 1, 3]
    first[:] = 0
    assert third.max() > 0
    assert abs(third[-1, 0].astype(int) - COLOURS['red']).max() < 6  # RGB


def spoil(folder: Path, fault: str) -> None:
    frames = folder / 'rawframes' / 'a' / 'red'
    middle = frames / 'img_00005.jpg'
    if fault == 'folder':
        frames.rename(folder / 'away')
    elif fault == 'few':
        (frames / f'img_{TOTAL:05}.jpg').unlink()
    elif fault == 'names':
        for path in frames.iterdir():
            path.rename(frames / path.name[4:])
    elif fault == 'start':
        for i in range(1, TOTAL + 1):
            (frames / f'img_{i:05}.jpg').rename(frames / f'img_{i - 1:05}.jpg')
    elif fault == 'empty':
        for path in frames.iterdir():
            path.unlink()
    elif fault == 'hole':
        middle.unlink()
    elif fault == 'cut':
        middle.write_bytes(middle.read_bytes()[:-20])
    elif fault == 'page':
        middle.write_text('<html>')
    elif fault == 'deep':
        deep = np.full((32, 32), 60000, np.uint16)
        middle.write_bytes(cv2.imencode('.png', deep)[1].tobytes())
    elif fault == 'size':
        write_frame(middle, 5, size=48)


FAULTS = {
    'folder': 'there is no such folder',
    'few': 'the list says 9 frames, 1 to 9, and the folder has 8, 1 to 8; extract the',
    'names': "it has no frame such as 'img_00001.jpg', but 9 others, such as "
    "'00001.jpg'; set filename_tmpl",
    'start': 'the list says 9 frames, 1 to 9, and the folder has 9, 0 to 8; set '
    'start_index=0',
    'empty': "it has no frame such as 'img_00001.jpg', but no file",
    'hole': 'img_00005.jpg is missing',
    'cut': r'img_00005.jpg is not a complete image \(image file is truncated',
    'page': r'img_00005.jpg is not a complete image \(cannot identify image file',
    'deep': 'img_00005.jpg has more than 8 bits per channel',
    'size': 'img_00005.jpg has 48 x 48 pixels and img_00001.jpg 32 x 32',
}


@pytest.mark.filterwarnings('ignore:skipped')
@pytest.mark.parametrize('fault', FAULTS)
def test_bad_frames_are_named_or_skipped(fault, folder):
    spoil(folder, fault)
    items = build(folder, clip_len=TOTAL)
    message = rf'rawframes/a/red \(line 1 of \S+train_rawframes.txt\): {FAULTS[fault]}'
    with pytest.raises(VideoError, match=message):
        items[0]
    items = build(folder, clip_len=TOTAL, on_error='skip')
    (sample,) = next(iter(DataLoader(items, collate_fn=pseudo_collate)))['data_samples']
    assert re.search(message, sample.lost_videos[0]) and sample.gt_label == 0


@pytest.mark.parametrize(
    'options, message',
    [
        (
            dict(filename_tmpl='img_%05d.jpg'),
            "filename_tmpl='img_%05d.jpg', expected",
        ),
        (dict(filename_tmpl='{}_{}.jpg'), "filename_tmpl='{}_{}.jpg', expected a name"),
        (dict(start_index=-1), 'start_index=-1, expected at least 0'),
        (dict(data_prefix=dict(video='x')), r'the extracted frames as dict\(img=...\)'),
        (dict(test_mode=True, on_error='skip'), 'is for training'),
    ],
)
def test_bad_argument_is_an_error(options, message, folder):
    with pytest.raises(ConfigError, match=message):
        build(folder, **options)


# --- Configs ------------------------------------------------------------------------


def test_a_run(folder):
    cfg = load(folder)
    cfg.work_dir = str(folder / 'work')
    check_config(cfg, ['train', 'val'])
    init_default_scope('mmaction')
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert 'acc/top1' in runner.test()
    assert (folder / 'work' / 'epoch_2.pth').exists()


@pytest.mark.parametrize('name', ['ssv2', 'ucf101', 'hmdb51_split2'])
def test_own_configs_take_the_names_of_mmaction2(name):
    path = str(ROOT / 'configs' / f'stop_{name}.py')
    videos, frames = load_config(path), load_config(path, rawframes=True)
    for split in ('train', 'val', 'test'):
        old, new = (cfg[f'{split}_dataloader'].dataset for cfg in (videos, frames))
        assert new.type == 'CheckedRawframeDataset'
        assert new.ann_file == old.ann_file.replace('videos.txt', 'rawframes.txt')
        assert new.data_prefix == dict(img=old.data_prefix.video[:-6] + 'rawframes')
        steps = [step.type for step in old.pipeline]
        assert [step.type for step in new.pipeline] == [
            'CheckedRawFrameDecode' if kind == 'DecordDecode' else kind
            for kind in steps
            if kind != 'CheckedDecordInit'
        ]
        assert new.pipeline[2:] == old.pipeline[3:]
    check_config(frames, [])
    assert frames.test_pipeline == videos.test_pipeline  # of single videos
    option = 'train_dataloader.dataset.filename_tmpl'
    cfg = load_config(path, {option: '{:06}.jpg'}, rawframes=True)
    assert cfg.train_dataloader.dataset.filename_tmpl == '{:06}.jpg'


def test_captions_are_not_read_with_frames(tmp_path):
    path = write_tiny_retrieval(tmp_path)
    with pytest.raises(ConfigError, match='--rawframes: .* has no data set of videos'):
        load_config(str(path), rawframes=True)


EARLY = {
    'names': "dataset: .*/a/red .line 1 of .*: it has no frame such as 'img_00001.jpg'",
    'few': 'dataset: .*/a/red .line 1 of .*: the list says 9 frames, 1 to 9, and',
    'folder': r"dataset: there is no folder '\S+/a/red' \(entry 1 of \S+; 1 of 6 ",
}


@pytest.mark.parametrize('fault', EARLY)
def test_checked_before_anything_is_built(fault, folder):
    spoil(folder, fault)
    with pytest.raises(ConfigError, match=EARLY[fault]):
        check_config(load(folder), ['train'])
    options = {'train_dataloader.dataset.on_error': 'skip'}
    check_config(load(folder, **options), ['train'])


def test_labels_are_compared_with_the_classes(folder):
    path = folder / 'train_rawframes.txt'
    path.write_text(path.read_text().replace(f'{TOTAL} 2', f'{TOTAL} 3'))
    message = r'line 5 of \S+train_rawframes.txt has the label 3 .* has 3 classes'
    with pytest.raises(ConfigError, match=message):
        check_config(load(folder), ['train'])
    path.write_text('a/red.mp4 0')
    with pytest.raises(ConfigError, match="line 1: 'a/red.mp4 0' is not a folder"):
        check_config(load(folder), ['train'])


def test_check_videos_reads_frames(folder, capsys):
    path = ROOT / 'tools' / 'analysis' / 'check_videos.py'
    spec = importlib.util.spec_from_file_location('tool_check_frames', path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    lists = tool.read_lists(load(folder), ['train'])
    (videos,) = lists.values()
    for video in videos:
        video.check(full=True)
    spoil(folder, 'cut')
    with pytest.raises(VideoError, match='img_00005.jpg is not a complete image'):
        videos[0].check(full=True)
