"""Annotation files: what is understood, and one error before anything is built."""

import json

import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import LocalBackend, register_backend
from mmengine.registry import DATASETS, DefaultScope
from tiny_run import tiny_config, write_tiny_retrieval, write_tiny_run

from mmstop.config import load_config
from mmstop.config_check import check_config
from mmstop.datasets import AnnotationError, load_labels
from mmstop.errors import ConfigError


@pytest.fixture
def read(tmp_path):
    def read(content, **options):
        path = tmp_path / 'list.txt'
        path.write_bytes(
            content if isinstance(content, bytes) else content.encode('utf-8')
        )
        return [tuple(entry) for entry in load_labels(path, **options)]

    return read


def test_what_editors_leave_behind_is_understood(read):
    plain = [('a.mp4', 1, 1), ('b/c.mp4', 2, 2)]
    for content in (
        'a.mp4 1\nb/c.mp4 2',
        'a.mp4 1\r\nb/c.mp4 2\r\n',
        '\ufeffa.mp4 1\nb/c.mp4 2\n\n',
        ' a.mp4  1 \nb/c.mp4 2',
    ):
        assert read(content) == plain
    assert read('a.mp4 1\n\nb.mp4 2') == [('a.mp4', 1, 1), ('b.mp4', 2, 3)]
    assert read('my video.mp4 1\n/x/ü.mp4 0') == [
        ('my video.mp4', 1, 1),
        ('/x/ü.mp4', 0, 2),
    ]
    assert read('a b.mp4,1', delimiter=',') == [('a b.mp4', 1, 1)]


def test_names_that_end_in_numbers_are_no_frames(read):
    assert read('take 1 0\ntake 2 1') == [('take 1', 0, 1), ('take 2', 1, 2)]
    assert read('a/x_run_f_cm_np1_ba_med_0.avi 0')[0][1] == 0  # HMDB51, with a folder


def test_several_labels_a_line(read):
    several = read('a.mp4 1 3\nb.mp4\nc.mp4 2', multi_class=True)
    assert several == [('a.mp4', [1, 3], 1), ('b.mp4', [], 2), ('c.mp4', [2], 3)]


def test_list_without_labels_is_for_testing(read):
    assert read('a b.mp4\nc.mp4', unlabelled=True) == [
        ('a b.mp4', -1, 1),
        ('c.mp4', -1, 2),
    ]
    assert read('a.mp4', unlabelled=True, multi_class=True) == [('a.mp4', [], 1)]


BAD_LISTS = {
    'empty': ('\n \n', {}, 'it has no videos'),
    'binary': (b'\xff\xfe\x00a', {}, 'not UTF-8'),
    'comma': ('a.mp4,3', {}, "line 1: 'a.mp4,3' is not .*a comma: set delimiter=','"),
    'tabulator': ('a\t3', {}, r"line 1: .* a tab: set delimiter='\\t'"),
    'comma_in_testing': ('a.mp4,3', dict(unlabelled=True), "set delimiter=','"),
    'no_label': ('a.mp4 1\nb.mp4', {}, "line 2: 'b.mp4' is not a path, a space and a"),
    'no_name': ('a.mp4 1\n\n7', {}, "line 3: '7' is not a path"),
    'one_has_none': ('a.mp4 1\nb', dict(unlabelled=True), "line 2: 'b' is not a path"),
    'negative': (
        'a.mp4 -1',
        {},
        "line 1: 'a.mp4 -1' has the label -1; labels start at",
    ),
    'twice': ('a 1\nb 1\na 2', {}, "lines 1 and 3 both name 'a'; remove one"),
    'several_words': ('a b c 1', dict(multi_class=True), "line 1: 'a b c 1' is not a"),
    'several_negative': ('a 1 -2', dict(multi_class=True), 'has the label -2'),
    'frames': (
        'v/a 120 0\nv/b 96 1',
        {},
        r"list of paths, frames and labels, 'v/a 120' and 0; .*use --rawframes",
    ),
    'frames_and_commas': ('a,120,0\nb,96,1', dict(delimiter=','), 'paths, frames and'),
    'official_hmdb51': (
        ''.join(f'A_brush_hair_u_nm_np1_ba_goo_{i}.avi {i} \n' for i in range(3)),
        {},
        'seems to be one of the split files of HMDB51, .* 0 for unused, 1 for training',
    ),
    'json': (
        '[' + 9999 * 'x' + ']',
        {},
        r"line 1: '\[x{115}\.\.\. is not a path.* seems to be a JSON file",
    ),
    'several_comma': ('a,1', dict(multi_class=True), "no line has .* delimiter=','"),
}


@pytest.mark.parametrize('case', BAD_LISTS)
def test_bad_line_is_named(case, read):
    content, options, message = BAD_LISTS[case]
    with pytest.raises(AnnotationError, match=rf'list\.txt.*{message}'):
        read(content, **options)


def test_dataset_gives_the_model_what_mmaction2s_does(tmp_path):
    write_tiny_run(tmp_path)
    (tmp_path / 'several.txt').write_text('a/red.mp4 0 2\nb/red.mp4 1')
    for ann_file, options in (
        ('train.txt', {}),
        ('several.txt', dict(multi_class=True, num_classes=3)),
    ):
        config = tiny_config(tmp_path)['test_dataloader']['dataset']
        config.update(ann_file=ann_file, **options)
        with DefaultScope.overwrite_default_scope('mmaction'):
            ours = DATASETS.build(config)
            theirs = DATASETS.build(dict(config, type='VideoDataset'))
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs):
            assert torch.equal(mine['inputs'], other['inputs'])
            label, expected = (s['data_samples'].gt_label for s in (mine, other))
            assert torch.equal(label, expected)


# --- Before anything is built -------------------------------------------------------

DATA = 'train_dataloader.dataset'


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    return write_tiny_run(tmp_path_factory.mktemp('lists'))


def check(config, options, splits=('train', 'val', 'test')):
    check_config(load_config(str(config), options), splits)


SEVERAL = {'multi_class': True, 'num_classes': 3}
FAULTS = {
    'label_of_no_class': (
        'a/red.mp4 0\nb/red.mp4 3',
        {},
        r"line 2 of \S+/case.txt has the label 3 \('\S+/b/red.mp4'\), but the model "
        r'has 3 classes, from 0 to 2',
    ),
    'faulty_line': ('a/red.mp4,0', {}, r"case.txt, line 1: .*set delimiter=','"),
    'classes_that_are_nowhere': (
        'a/red.mp4 0',
        {'model.cls_head.classes': 'ucf102'},
        "model.cls_head.classes: classes='ucf102' is neither .* did you mean 'ucf101'",
    ),
    'missing_video': (
        'a/red.mp4 0\na/rde.mp4 2',
        {},
        r"no file '\S+/videos/a/rde.mp4' \(entry 2 of \S+\); 1 of 2 files looked for",
    ),
    'folder_in_place_of_a_dict': (
        'a/red.mp4 0',
        {'train_dataloader': {'dataset': {'data_prefix': 'videos'}}},
        r"dataset.data_prefix is 'videos', expected a dict such as dict\(video='videos",
    ),
    'labels_from_1': (
        'a/red.mp4 1\nb/red.mp4 2',
        {},
        'labels from 1 to 2 and none is 0; they seem to be counted from 1: subtract 1',
    ),
    'frames_as_images': (
        'a/red.mp4 0',
        {f'{DATA}.pipeline.5.input_format': 'NCHW'},
        r"dataset.pipeline.5.input_format is 'NCHW', which .* set it to 'NCTHW'",
    ),
    'several_labels_of_no_class': (
        'a/red.mp4 0 1 3\nb/red.mp4 2',
        {f'{DATA}.multi_class': True, f'{DATA}.num_classes': 3},
        'line 1 of .* has the label 3',
    ),
    'several_labels_of_fewer_classes': (
        'a/red.mp4 0 1',
        {f'{DATA}.multi_class': True, f'{DATA}.num_classes': 2},
        'dataset.num_classes is 2, but the model has 3 classes; set it to 3',
    ),
}


@pytest.mark.parametrize('case', FAULTS)
@pytest.mark.parametrize('kind', ['CheckedVideoDataset', 'VideoDataset'])
def test_fault_is_found_before_anything_is_built(case, kind, config):
    lines, options, message = FAULTS[case]
    (config.parent / 'case.txt').write_text(lines)
    options = {f'{DATA}.ann_file': 'case.txt', f'{DATA}.type': kind, **options}
    with pytest.raises(ConfigError, match=message):
        check(config, options)


def test_list_of_more_classes_is_doubted(config):
    (config.parent / 'few.txt').write_text('a/red.mp4 0\na/green.mp4 1')
    with pytest.warns(
        UserWarning, match='highest label is 1, but the model has 3 class'
    ):
        check(config, {f'{DATA}.ann_file': 'few.txt'})


@pytest.mark.parametrize('kind', ['CheckedVideoDataset', 'VideoDataset'])
def test_lists_to_test_on_have_labels_and_these_begin_at_0(kind, config):
    def check_test(lines, options=None):
        (config.parent / 'case.txt').write_text(lines)
        where = 'test_dataloader.dataset'
        given = {f'{where}.ann_file': 'case.txt', f'{where}.type': kind}
        check(config, {**given, **(options or {})}, ['test'])

    unlabelled = 'a/red.mp4\na/green.mp4'
    message = 'case.txt has no labels, so that AccMetric would find every prediction wr'
    with pytest.raises(ConfigError, match=f'test_dataloader.dataset: .*{message}'):
        check_test(unlabelled)
    several = {f'test_dataloader.dataset.{k}': v for k, v in SEVERAL.items()}
    with pytest.raises(ConfigError, match=message):
        check_test(unlabelled, several)
    check_test(unlabelled, {'test_evaluator': []})
    check_test(unlabelled, {'test_evaluator': [dict(type='DumpResults')]})
    with pytest.raises(ConfigError, match='labels from 1 to 2 and none is 0'):
        check_test('a/red.mp4 1\nb/red.mp4 2')
    check_test('a/red.mp4 2')  # by chance


def test_missing_video_may_be_skipped_but_not_all(config):
    (config.parent / 'some.txt').write_text('a/red.mp4 0\nno.mp4 2')
    skip = {f'{DATA}.on_error': 'skip', f'{DATA}.ann_file': 'some.txt'}
    check(config, skip)
    with pytest.raises(ConfigError, match='2 of 2 files looked for are missing'):
        check(config, {**skip, f'{DATA}.data_prefix.video': ''})


def test_captions_and_their_videos_are_checked_early(tmp_path):
    config = write_tiny_retrieval(tmp_path)
    check(config, {})
    (tmp_path / 'x.json').write_text(json.dumps({'a/red.mp4': []}))
    option = 'test_dataloader.dataset.ann_file'
    with pytest.raises(
        ConfigError, match=r"x.json: 'a/red.mp4' has \[\], expected a li"
    ):
        check(config, {option: 'x.json'})
    (tmp_path / 'x.json').write_text(json.dumps({'a/no.mp4': ['a caption']}))
    with pytest.raises(
        ConfigError, match=r"no file '\S+/a/no.mp4' \(entry 'a/no.mp4' of"
    ):
        check(config, {option: 'x.json'})


def test_wrapped_data_sets_are_checked(config):
    cfg = Config.fromfile(config)
    (config.parent / 'bad.txt').write_text('a/red.mp4 9')
    inner = dict(cfg.train_dataloader.dataset, ann_file='bad.txt')
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', dataset=inner, times=2)
    with pytest.raises(ConfigError, match='dataset.dataset: line 1 .* has the label 9'):
        check_config(cfg, ['train'])


# --- Leaks --------------------------------------------------------------------------


STAGES = ['train', 'val', 'test']
TEST_FILE = 'test_dataloader.dataset.ann_file'


@pytest.fixture
def leaking(tmp_path):
    """A run whose test list reads the same folder, without a common video."""
    config = write_tiny_run(tmp_path)
    (tmp_path / 'train.txt').write_text('a/red.mp4 0\na/green.mp4 1\na/blue.mp4 2')
    (tmp_path / 'test.txt').write_text('b/red.mp4 0\nb/green.mp4 1')
    prefix = {f'{s}_dataloader.dataset.data_prefix.video': 'videos' for s in STAGES}
    return tmp_path, lambda **more: check(config, {**prefix, **more}, STAGES[:2])


def test_training_videos_are_not_tested_on(leaking):
    """The list for testing counts, too, if it is another than that for validation."""
    folder, check_training = leaking
    check_training()
    (folder / 'split2.txt').write_text(
        'b/blue.mp4 2\na/green.mp4 1\n./b/../a/red.mp4 0'
    )
    message = (
        r"train_dataloader.dataset: '\S+videos/a/red.mp4' \(entry 1 of \S+train.txt\) "
        r'is also in \S+split2.txt \(entry 3\), the list of test_dataloader.dataset; '
        r'2 training videos are; remove them from one of the lists, or test on '
    )
    with pytest.raises(ConfigError, match=message):
        check_training(**{TEST_FILE: 'split2.txt'})
    with pytest.raises(ConfigError, match='split2.txt .* list of val_dataloader'):
        check_training(**{TEST_FILE.replace('test', 'val'): 'split2.txt'})
    check_training(**{TEST_FILE: 'not_made_yet.txt'})
    check_training(val_from_train=0.4)  # parts the list between training and validation
    with pytest.raises(ConfigError, match='train.txt .* the list of test_dataloader'):
        check_training(val_from_train=0.4, **{TEST_FILE: 'train.txt'})
    (folder / 'broken.txt').write_text('')
    with pytest.raises(ConfigError, match='test_dataloader.dataset: .*broken.txt: it '):
        check_training(**{TEST_FILE: 'broken.txt'})


def test_training_captions_are_not_tested_on(tmp_path):
    config = write_tiny_retrieval(tmp_path)
    prefix = {'test_dataloader.dataset.data_prefix.video': 'videos'}
    with pytest.raises(ConfigError, match="'a/red.mp4'.* 5 training videos are"):
        check(config, prefix, ['train', 'val'])


# --- Object stores ------------------------------------------------------------------


@register_backend('store')
class Store(LocalBackend):
    """A bucket whose objects are the files of a folder."""

    def __init__(self, folder):
        self.folder = folder

    def get(self, filepath):
        assert filepath.startswith('s3://bucket/')
        return super().get(filepath.replace('s3://bucket', self.folder))


@pytest.mark.parametrize('write', [write_tiny_run, write_tiny_retrieval])
def test_videos_may_be_in_an_object_store(write, tmp_path):
    cfg = load_config(str(write(tmp_path)))
    dataset, videos = cfg.test_dataloader.dataset, []
    for prefix, options in (
        ('videos', {}),
        ('s3://bucket/videos', dict(io_backend='store', folder=str(tmp_path))),
    ):
        dataset.data_prefix.video = prefix
        dataset.pipeline[0].update(options)
        check_config(cfg, ['test'])
        with DefaultScope.overwrite_default_scope('mmaction'):
            inputs = DATASETS.build(dataset)[0]['inputs']
        videos.append(inputs['imgs'] if isinstance(inputs, dict) else inputs)
    assert torch.equal(*videos)
