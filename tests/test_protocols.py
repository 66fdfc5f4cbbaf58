"""The protocols of the literature: their lists, their configs and their reports."""

import csv
import json
from hashlib import sha256
from pathlib import Path

import compare
import compare_report
import make_shots
import protocols
import pytest
from mmengine.config import Config
from own_configs import CONFIGS, read
from tiny_run import COLOURS, tiny_config, write_video

from mmstop.config import KeyValues, load_config
from mmstop.config_check import check_config
from mmstop.config_parts import walk
from mmstop.datasets import load_classes, load_labels
from mmstop.errors import ConfigError

# --- Drawing ------------------------------------------------------------------------


def write_list(path, videos):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(f'{name} {label}\n' for name, label in videos))
    return str(path)


def read_list(path):
    return [(name, label) for name, label, _ in load_labels(path)]


@pytest.fixture
def drawn(tmp_path):
    """Five classes, the last two of which have the most videos."""
    sizes = [17, 16, 16, 19, 18]
    videos = [(f'{i}/{k}.mp4', k) for k, n in enumerate(sizes) for i in range(n)]
    videos.sort()  # the classes are mixed
    lists = [write_list(tmp_path / 'train.txt', videos)]
    lists += [write_list(tmp_path / 'test.txt', [(f't/{k}', k) for k in range(5)])]
    (tmp_path / 'names.txt').write_text('ant\nbee\ncat\ndog\nelk\n')
    given = [*lists, '--classes', str(tmp_path / 'names.txt')]
    return tmp_path, videos, lambda *more: make_shots.main([*given, *more])


def test_draws_follow_the_documented_rule(drawn):
    folder, videos, make = drawn
    assert make('--seeds', '0', '7') == 0
    for shots in (2, 4, 8, 16):
        for seed in (0, 7):
            expected = set()
            for label in range(5):
                names = [name for name, own in videos if own == label]
                hashed = [(sha256(f'{seed} {n}'.encode()).digest(), n) for n in names]
                expected |= {(name, label) for _, name in sorted(hashed)[:shots]}
            found = read_list(folder / 'shots' / f'few_shot_{shots}_{seed}.txt')
            assert found == [video for video in videos if video in expected]
    # These are the same on every machine.
    first = read_list(folder / 'shots' / 'few_shot_2_0.txt')
    assert [name for name, label in first if label == 0] == FIRST
    # Base: both of the frequent classes, and the first of the others.
    base = read_list(folder / 'shots' / 'base_train_7.txt')
    sixteen = read_list(folder / 'shots' / 'few_shot_16_7.txt')
    numbers = {0: 0, 3: 1, 4: 2}
    assert base == [(n, numbers[label]) for n, label in sixteen if label in numbers]
    assert load_classes(str(folder / 'shots' / 'base_classes.txt')) == [
        'ant',
        'dog',
        'elk',
    ]
    assert load_classes(str(folder / 'shots' / 'novel_classes.txt')) == ['bee', 'cat']
    assert read_list(folder / 'shots' / 'base_val.txt') == [
        ('t/0', 0),
        ('t/3', 1),
        ('t/4', 2),
    ]
    assert read_list(folder / 'shots' / 'novel_val.txt') == [('t/1', 0), ('t/2', 1)]


FIRST = ['0/0.mp4', '13/0.mp4']


def test_draws_are_nested_unless_they_are_independent(drawn):
    folder, _, make = drawn
    assert make() == make('--independent', '--out', str(folder / 'i')) == 0

    def chosen(part, shots):
        return {*read_list(folder / part / f'few_shot_{shots}_1.txt')}

    for few, more in ((2, 4), (4, 8), (8, 16)):
        assert chosen('shots', few) < chosen('shots', more)
        assert len(chosen('i', few)) == 5 * few
    assert not chosen('i', 2) <= chosen('i', 4)


def test_lists_that_cannot_be_drawn(drawn, capsys):
    folder, _, make = drawn
    assert make('--shots', '17') == 2
    error = r'train.txt: class 1 has 16 videos, 17 are to be drawn; give less --shots'
    assert error in capsys.readouterr().err
    assert make() == 0
    assert make('--independent') == 2
    assert 'exists and differs from what would be written' in capsys.readouterr().err
    (folder / 'names.txt').write_text('ant\nbee\n')
    assert make() == 2
    error = "train.txt: '0/2.mp4' has the label 2, but there are 2 classes; give the"
    assert error in capsys.readouterr().err
    for option in (['--shots', '0'], ['--vifi', 'x', 'kinetics']):
        with pytest.raises(SystemExit):
            make(*option)
    error = capsys.readouterr().err
    assert '--shots 0: it is at least 1' in error
    assert '--vifi kinetics: it is one of hmdb, ucf, ssv2, k400' in error


# --- ViFi-CLIP's lists --------------------------------------------------------------

# Own names, ViFi-CLIP's and the number of classes. Theirs have no folders for classes.
FORMATS = {
    'hmdb51': ('{c}/run_{k}_{i}_u_cm_np1_ba_med_0.avi', 'hmdb', 51),
    'ssv2': ('{k}{i:03}.mp4', 'ssv2', 174),
    'k400': ('{c}/{k:011}_{i:06}.mp4', 'k400', 400),
}
FOLDERS = {'hmdb51': 'hmdb51', 'ssv2': 'sthv2', 'k400': 'kinetics400'}


def theirs(name, data_set, split='train'):
    """Name a video as ViFi-CLIP does."""
    base = Path(name).name.replace('.mp4', '.webm' if data_set == 'ssv2' else '.mp4')
    return f'{split}/{base}' if data_set == 'k400' else base


def write_real(data_set, videos=True):
    """Write a data set's own lists and ViFi-CLIP's, in their formats, and empty videos.

    Returns:
        the arguments of make_shots.py.
    """
    pattern, name, num = FORMATS[data_set]
    cfg = read(f'stop_{data_set}')
    lists = {}
    for stage, count in (('train', 16), ('test', 1)):
        dataset = cfg[f'{stage}_dataloader'].dataset
        first = 0 if stage == 'train' else 16
        lists[stage] = [
            (pattern.format(c=f'class_{k:03}', k=k, i=first + i), k)
            for k in range(num)
            for i in range(count)
        ]
        write_list(Path(dataset.ann_file), lists[stage])
        for video, _ in lists[stage] if videos else ():
            path = Path(dataset.data_prefix.video, video)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    half = num // 2 + num % 2  # theirs has the last ones as base
    last = {k: k - (num - half) for k in range(num - half, num)}
    rest = {k: (num - half - 1) - k for k in range(num - half)}  # in their own order
    few, halves = Path(f'vifi/{name}_splits'), Path('vifi/base2novel_splits')
    halves /= f'{name}_splits'
    for shots in (2, 16) if data_set != 'k400' else ():
        chosen = [v for i, v in enumerate(lists['train']) if i % 16 < shots]
        path = few / f'train1_few_shot_{shots}.txt'
        write_list(path, [(theirs(v, data_set), k) for v, k in chosen])
    for s in (1, 2, 3):
        write_list(
            halves / f'fs_base_s{s}_train.txt',
            [(theirs(v, data_set), last[k]) for v, k in lists['train'] if k in last],
        )
    for part, numbers in (('base_val', last), ('novel_val', rest)):
        chosen = [v for v in lists['test'] if v[1] in numbers]
        chosen = [(theirs(v, data_set, 'val'), numbers[k]) for v, k in chosen]
        write_list(halves / f'{part}.txt', chosen)
    if data_set == 'k400':
        names = ''.join(f'action {k}\n' for k in range(num))
        Path(cfg.classes).write_text(names)
    own = [cfg[f'{s}_dataloader'].dataset.ann_file for s in ('train', 'test')]
    given = [*own, '--classes', cfg.classes, '--shots', '2', '16']
    return [*given, '--vifi', 'vifi', name]


def settings(config, **changes):
    cfg = read(config)
    setting = protocols.Setting(
        cfg,
        config.partition('_')[2],
        seed=0,
        trained=bool(cfg.train_dataloader),
        shots=[2, 16],
        splits=[1],
        lists='vifi',
        configs=CONFIGS['stop_hmdb51'].parent,
    )
    return setting._replace(**changes)


def parsed(*options):
    """Read KEY=VALUE options as the command line does."""
    pairs = [option.partition('=')[::2] for option in options]
    return {key: KeyValues._parse_int_float_bool(value) for key, value in pairs}


def change(config, *options):
    return load_config(str(CONFIGS[config]), parsed(*options))


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ('ssv2', 'k400')]


@pytest.mark.parametrize('data_set', ['hmdb51', *SLOW])
def test_lists_of_vifi_clip_become_one_s_own(data_set, tmp_path, monkeypatch):
    """Up to the point where a model is built, on real configs and real formats."""
    monkeypatch.chdir(tmp_path)
    assert make_shots.main(write_real(data_set)) == 0
    folder, num = Path('data', FOLDERS[data_set], 'vifi'), FORMATS[data_set][2]
    config = f'stop_{data_set}'
    names, half = load_classes(read(config).classes), num // 2
    assert load_classes(str(folder / 'base_classes.txt')) == names[half:]
    assert load_classes(str(folder / 'novel_classes.txt')) == names[:half]
    # Their numbers of the novel half are in another order; the videos decide.
    novel = read_list(folder / 'novel_val.txt')
    assert [label for _, label in novel] == list(range(half))
    few = [] if data_set == 'k400' else protocols.plans('few_shot', settings(config))
    (both,) = protocols.plans('base_to_novel', settings(config))
    for plan in (both, *few):
        check_config(change(config, *plan.options), ['train', 'val', 'test'])
    check_config(change(config, *both.options, *both.tests['novel']), ['test'])


def test_a_list_that_does_not_fit(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = write_real('hmdb51', videos=False)
    path = Path('vifi/hmdb_splits/train1_few_shot_2.txt')
    lines = path.read_text().splitlines()
    path.write_text('\n'.join([*lines, 'unknown.avi 0']))
    assert make_shots.main(arguments) == 2
    error = "train1_few_shot_2.txt, line 103: 'unknown.avi' is not in your list; give"
    assert error in capsys.readouterr().err
    assert make_shots.main([*arguments, '--drop-missing']) == 0
    assert '2.txt: 1 videos are not in your list and' in capsys.readouterr().out
    path.write_text('\n'.join([*lines[:2], lines[2].replace(' 1', ' 0'), *lines[3:]]))
    assert make_shots.main(arguments) == 2
    error = "line 3: 'run_1_0_u_cm_np1_ba_med_0.avi' has the label 0, and its class in"
    assert error in capsys.readouterr().err
    path.write_text('\n'.join(lines))
    novel = Path('vifi/base2novel_splits/hmdb_splits/novel_val.txt')
    novel.write_text(novel.with_name('base_val.txt').read_text())
    assert make_shots.main(arguments) == 2
    assert 'label 25 of data/hmdb51/' in (error := capsys.readouterr().err)
    assert 'is in both halves; are these the lists of this data set?' in error
    own = Path(arguments[0])
    own.write_text(own.read_text() + 'other/run_0_0_u_cm_np1_ba_med_0.avi 0\n')
    assert make_shots.main(arguments) == 2
    assert "0.avi' fits several videos of data/hmdb51/" in capsys.readouterr().err


def test_other_splits_leak(tmp_path, monkeypatch):
    """ViFi-CLIP's draws from the first training split are in the others' test lists."""
    monkeypatch.chdir(tmp_path)
    make_shots.main(write_real('hmdb51'))
    train_1 = read_list('data/hmdb51/hmdb51_train_split_1_videos.txt')
    write_list(
        Path('data/hmdb51/hmdb51_val_split_2_videos.txt'),
        [video for i, video in enumerate(train_1) if i % 16 in (1, 5)],
    )
    (_, plan) = protocols.plans('few_shot', settings('stop_hmdb51'))
    check_config(change('stop_hmdb51', *plan.options), ['train', 'val'])
    message = (
        r"videos/class_000/run_0_1_\S+avi' \(entry 2 of \S+vifi/few_shot_16_0.txt\) "
        r'is also in \S+val_split_2_videos.txt \(entry 1\), .* 102 training videos are'
    )
    with pytest.raises(ConfigError, match=message):
        check_config(change('stop_hmdb51_split2', *plan.options), ['train', 'val'])


# --- Plans --------------------------------------------------------------------------


@pytest.fixture
def lists(tmp_path, monkeypatch):
    """The lists of the protocols on two data sets, which nobody reads but counts."""
    monkeypatch.chdir(tmp_path)
    videos = [(f'{i}.mp4', 0) for i in range(130)]
    for folder in ('hmdb51', 'sthv2'):
        for name in ('few_shot_2_0', 'few_shot_16_0', 'base_train_0'):
            write_list(Path('data', folder, 'vifi', f'{name}.txt'), videos)
        for name in ('base_val', 'base_classes', 'novel_val', 'novel_classes'):
            Path('data', folder, 'vifi', f'{name}.txt').touch()


SSV2 = 'data/sthv2/vifi'
TEST = 'test_dataloader.dataset.ann_file'
TRAIN = 'train_dataloader.dataset.ann_file'
CLASSES = 'model.cls_head.classes'
OTHERS = {'default_hooks.checkpoint.other_classes': True}
FLIP = 'train_dataloader.dataset.pipeline.{}.flip_ratio'


def test_plans_are_those_of_the_literature(lists):
    (plan, _) = protocols.plans('few_shot', settings('stop_ssv2'))
    assert plan.folder == 'vifi-few_shot-2' and plan.tests == {'2 shots': ()}
    schedule = {
        'train_dataloader.batch_size': 64,
        'train_cfg.max_epochs': 50,
        'train_cfg.val_interval': 50,
        'default_hooks.checkpoint.interval': 5,
        'param_scheduler.0.end': 5,
        'param_scheduler.1.begin': 5,
        'num_frames': 32,
    }
    assert parsed(*plan.options) == {TRAIN: f'{SSV2}/few_shot_2_0.txt', **schedule}

    (plan,) = protocols.plans('base_to_novel', settings('stop_ssv2'))
    pipeline = read('stop_ssv2').train_dataloader.dataset.pipeline
    (flip,) = (i for i, step in enumerate(pipeline) if step.type == 'Flip')
    base, novel = (
        {TEST: f'{SSV2}/{x}_val.txt', CLASSES: f'{SSV2}/{x}_classes.txt', **OTHERS}
        for x in ('base', 'novel')
    )
    assert parsed(*plan.tests['base']) == base
    assert parsed(*plan.tests['novel']) == novel
    assert parsed(*plan.options) == {
        **schedule,
        **base,
        TRAIN: f'{SSV2}/base_train_0.txt',
        TEST.replace('test', 'val', 1): f'{SSV2}/base_val.txt',
        'train_cfg.max_epochs': 11,
        'train_cfg.val_interval': 11,
        'default_hooks.checkpoint.interval': 1,
        'param_scheduler.0.end': 1.1,
        'param_scheduler.1.begin': 1.1,
        FLIP.format(flip): 0,  # its labels are those of all classes
    }
    with pytest.raises(ConfigError, match='few_shot_2_5.txt: there is no such list; m'):
        [*protocols.plans('few_shot', settings('stop_ssv2', seed=5))]


def test_a_method_that_does_not_train_is_tested_once(lists):
    (plan,) = protocols.plans('base_to_novel', settings('clip_ssv2'))
    assert plan.options == () and [*plan.tests] == ['base', 'novel']
    (plan,) = protocols.plans('few_shot', settings('clip_ssv2'))
    assert plan == ('', (), {'0 shots': ()})


def test_equal_steps_on_moving_shapes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for shots in (2, 16):
        videos = [(f'{i}.mp4', i % 9) for i in range(9 * shots)]
        path = Path('data', 'moving_shapes', 'shots', f'few_shot_{shots}_0.txt')
        write_list(path, videos)
    setting = settings('stop_moving_shapes', data_set='moving_shapes', lists='shots')
    few, more = (parsed(*p.options) for p in protocols.plans('few_shot', setting))
    assert few[TRAIN] == 'shots/few_shot_2_0.txt'  # below data_root
    # 2 and 9 steps an epoch, 200 and 198 in all.
    assert [few['train_cfg.max_epochs'], more['train_cfg.max_epochs']] == [100, 22]
    assert few['param_scheduler.0.end'] == 10 and 'num_frames' not in few


def test_towers_with_parameters_for_each_frame_get_more(lists):
    for config in ('aim_hmdb51', 'dgl_transformer_hmdb51', 'efficient_prompt_hmdb51'):
        (plan, _) = protocols.plans('few_shot', settings(config))
        cfg = read(config)
        cfg.merge_from_dict(parsed(*plan.options))
        parts = [part for part in walk(cfg) if part.path.startswith('model')]
        assert {part.node.get('num_frames') for part in parts} == {None, 32}


def test_zero_shot_covers_all_splits():
    (plan,) = protocols.plans('zero_shot', settings('stop_k400'))
    assert plan.folder == '' and plan.options == ()
    names = 'hmdb51', 'ucf101', 'k600_zero_shot'
    assert [*plan.tests] == [f'{name} split {n}' for name in names for n in (1, 2, 3)]
    prefix = 'test_dataloader.dataset.data_prefix.video'
    root = {'test_dataloader.dataset.data_root': '.', **OTHERS}
    assert parsed(*plan.tests['hmdb51 split 2']) == {
        TEST: 'data/hmdb51/hmdb51_val_split_2_videos.txt',
        prefix: 'data/hmdb51/videos',
        CLASSES: 'hmdb51',
        **root,
    }
    assert parsed(*plan.tests['k600_zero_shot split 3']) == {
        TEST: 'data/kinetics600/vifi/ZS_split3_K600_eval.txt',
        prefix: 'data/kinetics600',
        CLASSES: 'data/kinetics600/vifi/ZS_split3_K600.csv',
        **root,
    }
    with pytest.raises(ConfigError, match='ssv2: .* names no other data set to test'):
        [*protocols.plans('zero_shot', settings('stop_ssv2'))]


def test_splits_are_those_of_the_configs():
    setting = settings('stop_hmdb51', splits=[1, 2, 3])
    first, second, third = protocols.plans('full', setting)
    assert first == ('', (), {'split 1': ()})
    for n, plan in ((2, second), (3, third)):
        own = read(f'stop_hmdb51_split{n}')
        assert parsed(*plan.options) == {
            f'{stage}.dataset.ann_file': own[stage].dataset.ann_file
            for stage in ('train_dataloader', 'val_dataloader', 'test_dataloader')
        }
        assert plan.folder == f'split{n}' and [*plan.tests] == [f'split {n}']
    with pytest.raises(ConfigError, match='--splits 2: .* does not belong to one of'):
        [*protocols.plans('full', settings('stop_ssv2', splits=[2]))]


@pytest.mark.parametrize(
    'options, message',
    {
        'table1 --protocol few_shot --rates 1': '--rates: only for --protocol full on',
        'table2 --protocol few_shot': 'table2 is retrieval, which has neither',
        'table1 --protocol zero_shot --splits 2': '--protocol zero_shot has its own sp',
    }.items(),
)
def test_options_that_do_not_fit(options, message, capsys):
    data = 'msrvtt' if 'table2' in options else 'k400'
    given = [*options.split(), '--methods', 'stop', '--data', data]
    assert compare.main(given) == 2
    assert message in capsys.readouterr().err


def test_other_lists_are_read_and_reported_apart(lists):
    """``lists`` has them for SS-V2, in the folder that --lists names."""
    given = ['table1', '--protocol', 'few_shot', '--lists', 'vifi', '--shots', '2']
    args = compare.parse_args([*given, '--methods', 'stop', '--seeds', '0'])
    (row,) = compare.rows_of(args, 'ssv2')
    ((_, plan),) = compare.plan_row(args, 'ssv2', row)
    named = f'train_dataloader.dataset.ann_file={SSV2}/few_shot_2_0.txt'
    assert named in plan.options
    assert compare.protocol_name(args) == 'few_shot, vifi'
    args.lists = 'shots'
    assert compare.protocol_name(args) == 'few_shot'


# --- End to end ---------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """STOP and plain CLIP on a tiny data set, and another to test on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(protocols, 'SHAPES', protocols.Schedule(batch=2, steps=12))
    monkeypatch.setattr(protocols, 'ZERO_SHOT', {'tinyshapes': ('target',)})
    for colour in COLOURS:
        write_video(tmp_path / 'videos' / f'{colour}.mp4', COLOURS[colour])
    (tmp_path / 'test_videos').symlink_to('videos')
    videos = [(f'{c}_{i}.mp4', k) for i in range(16) for k, c in enumerate(COLOURS)]
    for name, _ in videos:
        (tmp_path / 'videos' / name).symlink_to(f'{name.partition("_")[0]}.mp4')
    tested = [(f'{c}.mp4', k) for k, c in enumerate(COLOURS)]
    for name, listed in (('train', videos), ('test', tested), ('target', tested[:2])):
        write_list(tmp_path / f'{name}.txt', listed)
    (tmp_path / 'names.txt').write_text(''.join(f'{name}\n' for name in COLOURS))
    write_configs(tmp_path)
    return tmp_path


def write_configs(folder):
    cfg = Config(tiny_config(folder))
    for split, part in (('train', 'train'), ('val', 'test'), ('test', 'test')):
        cfg[f'{split}_dataloader'].dataset.ann_file = f'{part}.txt'
    cfg.train_cfg.max_epochs, cfg.train_dataloader.batch_size = 1, 4
    cfg.param_scheduler = [
        dict(type='LinearLR', end=0.1, convert_to_iter_based=True),
        dict(type='CosineAnnealingLR', begin=0.1, convert_to_iter_based=True),
    ]
    cfg.default_hooks.checkpoint.update(save_best='acc/top1', rule='greater')
    bases = folder / 'configs' / '_base_' / 'datasets'
    bases.mkdir(parents=True)
    cfg.dump(bases.parents[1] / 'stop_tinyshapes.py')
    loader = cfg.test_dataloader.to_dict()
    loader['dataset']['ann_file'] = 'target.txt'
    target = dict(test_dataloader=loader, classes=str(folder / 'names.txt'))
    Config(target).dump(bases / 'target.py')
    cfg.train_dataloader = cfg.train_cfg = cfg.optim_wrapper = None
    cfg.param_scheduler = None
    cfg.model.backbone = cfg.model.backbone.clip
    cfg.dump(bases.parents[1] / 'clip_tinyshapes.py')


@pytest.mark.slow
def test_every_protocol_from_lists_to_report(tiny, runs):
    lists = [str(tiny / f'{stage}.txt') for stage in ('train', 'test')]
    given = [*lists, '--classes', str(tiny / 'names.txt')]
    assert make_shots.main(given) == 0
    results = tiny / 'docs' / 'comparison.json'

    def run(protocol, methods, *more):
        common = ['table1', '--configs', str(tiny / 'configs'), '--data', 'tinyshapes']
        common += ['--json', str(results), '--work-dir', str(tiny / 'w')]
        common += ['--methods', *methods, '--seeds', '0', '--protocol', protocol]
        runs.clear()
        assert compare.main([*common, *more]) == 0
        return json.loads(results.read_text())['protocols'][protocol]['tinyshapes']

    both = 'stop', 'clip'
    found = run('few_shot', both, '--shots', '2')
    assert sorted(runs) == ['test.py', 'test.py', 'train.py']
    assert [*found['stop']['tests']] == ['2 shots'] and found['stop']['trained'] > 0
    assert [*found['clip']['tests']] == ['0 shots'] and found['clip']['trained'] == 0
    assert found == run('few_shot', both, '--shots', '2') and not runs

    found = run('base_to_novel', both)
    assert sorted(runs) == ['test.py'] * 4 + ['train.py']
    for method in both:
        tests = found[method]['tests']
        assert tests['novel']['0']['acc/top1'] == 1  # of one class

    found = run('zero_shot', ['stop'])
    assert runs == ['train.py', 'test.py'] and [*found['stop']['tests']] == ['target']

    with results.with_name('comparison_protocols.csv').open() as file:
        lines = list(csv.DictReader(file))
    kinds = {(line['protocol'], line['test'], line['over']) for line in lines}
    assert ('zero_shot', 'target', 'seeds') in kinds
    assert ('base_to_novel', 'harmonic mean', 'seeds') in kinds
    assert {line['metric'] for line in lines} == {'top-1', 'top-5', 'mean class'}
    page = results.with_suffix('.md').read_text()
    assert '| method | trained | 0 shots | 2 shots |' in page
    assert '| method | trained | base | novel | harmonic mean |' in page
    assert results.with_name('comparison_few_shot.png').stat().st_size > 1000


def test_report_averages_as_published(tmp_path):
    def seeds(*values):
        return {str(i): {'acc/top1': x} for i, x in enumerate(values)}

    halves = dict(base=seeds(0.771, 0.773, 0.769), novel=seeds(0.549, 0.529, 0.569))
    splits = {
        'hmdb51 split 1': seeds(0.5, 0.6),
        'hmdb51 split 2': seeds(0.4),
        'hmdb51 split 3': seeds(0.3),
    }
    shots = {f'{k} shots': seeds(k / 100, k / 50) for k in (16, 2)}
    found = {
        'base_to_novel': dict(hmdb51=dict(vifi=dict(trained=1, tests=halves))),
        'zero_shot': dict(k400=dict(stop=dict(trained=1, tests=splits))),
        'few_shot, vifi': dict(
            ucf101=dict(
                stop=dict(trained=1, tests=shots),
                clip=dict(trained=0, tests={'0 shots': seeds(0.4)}),
            )
        ),
    }
    path = tmp_path / 'comparison.json'
    path.write_text(json.dumps(dict(protocols=found)))
    compare_report.main([str(path)])
    page = path.with_suffix('.md').read_text()
    # ViFi-CLIP's published means and harmonic mean.
    assert '| vifi | 1 | 77.1 ± 0.2 | 54.9 ± 2.0 | 64.1 |' in page
    # The splits' means are 55, 40 and 30.
    assert (
        '| method | trained | hmdb51 |' in page and '| stop | 1 | 41.7 ± 12.6 |' in page
    )
    assert '| method | trained | 0 shots | 2 shots | 16 shots |' in page
    assert '| stop | 1 | – | 3.0 ± 1.4 | 24.0 ± 11.3 |' in page
    assert '| clip | 0 | 40.0 | – | – |' in page
