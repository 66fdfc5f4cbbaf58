"""What the benchmark reports is what is known by hand; no test asserts seconds."""

import importlib.util
import json
import mmap
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image
from tiny import TINY, VIT, still, wild
from tiny_run import ROOT, tiny_config, write_tiny_run

from mmstop.registry import MODELS

ANALYSIS = ROOT / 'tools' / 'analysis'


def load_script(name):
    spec = importlib.util.spec_from_file_location(name, ANALYSIS / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where the scripts find each other
    spec.loader.exec_module(module)
    return module


model = load_script('benchmark_model')
counts = load_script('benchmark_counts')
data = load_script('benchmark_pipeline')
reading = load_script('benchmark_reading')
report_script = load_script('benchmark_report')
shrinking = load_script('benchmark_shrinking')
benchmark = load_script('benchmark')
retrieval = load_script('benchmark_retrieval')

# The tiny tower: D, MLP width, blocks, patches, embedding, pixels of a patch.
D, WIDE, DEPTH, N, E, PIXELS = 64, 256, 3, 16, 32, 3 * 8 * 8
HEADS = 2
B, T = 2, 5
OFF = dict(type='STOPCLIPViT', num_spatial=0, temporal_scale=0)


def contestant(backbone, video=None):
    if isinstance(backbone, str):
        backbone = model.CONTESTANTS[backbone]
    setup = model.Setup('it', backbone, TINY, T, B, 'cpu', 'float32', 1)
    made = model.Contestant(setup)
    if video is not None:
        made.video = video
    return made


# --- Counts -------------------------------------------------------------------------


@pytest.mark.parametrize(
    'backbone, per, queries, keys, trained',
    [
        ('open_clip', 'frame', [1 + N] * 3, 1 + N, 0),
        ('clip', 'frame', [1 + N, 1 + N, 1], 1 + N, 0),
        (dict(OFF, attention='frame'), 'frame', [1 + N, 1 + N, 1], 1 + N, 0),
        (OFF, 'video', [1 + T * N, 1 + T * N, 1], 1 + T * N, 0),
        ('deep-prompts', 'frame', [1 + N, 1 + N, 1], 1 + 8 + N, DEPTH * 8 * D),
        (
            dict(
                type='DeepPromptCLIPViT',
                num_prompts=3,
                clip=dict(OFF, clip=dict(type='CLIPViT')),
            ),
            'frame',
            [1 + N, 1 + N, 1],
            1 + 3 + N,
            DEPTH * 3 * D,
        ),
    ],
)
def test_tokens_and_parameters_are_those_of_the_method(
    backbone, per, queries, keys, trained
):
    found = counts.describe(contestant(backbone))
    assert found['tokens'] == {
        'per': per,
        'queries': queries,
        'keys': [keys] * DEPTH,
        'mean_keys': keys,
        'padding': 0,
    }
    assert found['trainable_parameters'] == trained
    assert found['gradient_to'] == ('parameters' if trained else 'inputs')


def test_still_video_is_padding_beside_a_wild_one():
    video = torch.cat([still(1, T), wild(1, T)])
    found = counts.describe(contestant('stop-joint-input', video))
    none, many = found['temporal_prompts']
    assert none == 0 < many
    keys = 1 + many + T * N
    assert found['tokens']['keys'] == [keys] * DEPTH
    assert found['tokens']['padding'] == pytest.approx(many / (2 * keys))

    made = contestant('stop-frame-input', video)
    found = counts.describe(made)
    prompts = made.model.trace(
        video
    ).num_prompts  # of the gaps before frames 1 to T - 1
    longest = int(prompts.max())
    padding = (B * T * longest - int(prompts.sum())) / (B * T * (1 + longest + N))
    assert found['tokens']['keys'] == [1 + longest + N] * DEPTH
    assert found['tokens']['padding'] == pytest.approx(padding)


def test_padding_of_a_float_mask_is_what_no_query_sees():
    x, mask = torch.zeros(B, T, 4, D), torch.zeros(B, T, 4, 4)
    mask[0, 0, :, 1] = -torch.inf  # hidden from all queries
    mask[1, 2, 0, 3] = -torch.inf  # and from one
    assert counts._call(x, x, mask) == (B * T, 4, 4, 1)


def test_counting_leaves_the_model_as_it_was():
    made = contestant('stop-joint')
    before = made.forward()
    fast = torch.backends.mha.get_fastpath_enabled()
    counts.describe(made)
    assert torch.equal(made.forward(), before)
    assert 'attend' not in vars(made.model.clip)
    assert torch.backends.mha.get_fastpath_enabled() == fast


def by_hand(queries):
    """MACs of a frame: (queries of each block) over 1 + N keys."""
    L = 1 + N
    macs = N * PIXELS * D + D * E  # patches; projection of CLS
    for q in queries:
        if (
            q == 1
        ):  # keys and values are not projected, but what one query makes of them
            macs += 3 * D * D + 2 * HEADS * L * D
        else:
            macs += q * D * D + L * D * 2 * D  # to queries; to keys and values
            macs += 2 * q * L * D  # scores and their weighted sum
        macs += q * D * D + 2 * q * D * WIDE  # out of the heads; the MLP
    return macs


def test_macs_equal_those_by_hand():
    def macs(backbone):
        return counts.count_macs(contestant(backbone)) / (B * T)

    plain = by_hand([1 + N] * DEPTH)
    ours = by_hand([1 + N] * (DEPTH - 1) + [1])
    attention = 2 * D * D + HEADS * N * D  # Eq. 2: query, what it looks for, scores
    assert macs('open_clip') == plain
    assert macs('clip') == ours < plain
    assert macs(dict(OFF, attention='frame')) == ours + DEPTH * attention
    found = counts.describe(contestant('open_clip'))
    assert found['gmacs_per_video'] == pytest.approx(T * plain / 1e9)


# --- Works and their times ----------------------------------------------------------


def test_reference_gives_what_our_tower_gives():
    ours, theirs = contestant('clip'), contestant('open_clip')
    assert torch.equal(ours.video, theirs.video)
    torch.testing.assert_close(ours.forward(), theirs.forward())


@pytest.mark.parametrize('name', model.CONTESTANTS)
def test_step_reaches_what_it_should_and_changes_nothing(name):
    made = contestant(name)
    before = {key: value.clone() for key, value in made.model.state_dict().items()}
    made.prepare('step')
    made.step()
    made.step()
    for key, parameter in made.model.named_parameters():
        assert torch.equal(parameter, before[key]), key
        assert (parameter.grad is not None) == parameter.requires_grad, key
    leaf = made.trained[0] if made.trained else made.video
    assert leaf.grad.abs().sum() > 0
    assert (made.video.grad is None) == bool(made.trained)
    with torch.no_grad():
        assert not made.forward().requires_grad


def test_arch_is_filled_in_through_all_layers():
    around = dict(
        type='mmstop.DeepPromptCLIPViT', clip=dict(OFF, clip=dict(VIT, arch='other'))
    )
    filled = model.with_arch(around, TINY)
    assert filled['clip']['clip'] == dict(type='CLIPViT', arch=TINY, weights=None)
    assert around['clip']['clip']['arch'] == model.arch_of(around) == 'other'
    openai = dict(type='STOPCLIPViT')  # whose default would be downloaded
    assert model.with_arch(openai, TINY)['clip']['weights'] is None
    assert MODELS.build(filled).clip.clip.source == 'random'


class Fake:
    """A contestant whose works take what it is told, by a clock of the test's."""

    def __init__(self, name, log, durations):
        self.name, self.log, self.durations = name, log, iter(durations)

    def prepare(self, work):
        self.log.now += 100  # not part of the work

    def _work(self, work):
        self.log.works.append((self.name, work))
        self.log.now += next(self.durations)

    def forward(self):
        self._work('forward')

    def step(self):
        self._work('step')


def test_contestants_take_turns_and_ratios_are_within_rounds():
    log = SimpleNamespace(now=0, works=[])
    fakes = {  # forward, step of the warm-up, then of three rounds
        'reference': Fake('reference', log, [50, 50, 1, 2, 2, 2, 4, 2]),
        'ours': Fake('ours', log, [90, 90, 2, 4, 2, 6, 20, 8]),
    }
    times = model.time_rounds(fakes, warmup=1, repeats=3, clock=lambda: log.now)
    turn = [(name, work) for name in fakes for work in ('forward', 'step')]
    assert log.works == 4 * turn
    assert times['reference'] == {'forward': [1, 2, 4], 'step': [2, 2, 2]}
    assert times['ours'] == {'forward': [2, 2, 20], 'step': [4, 6, 8]}
    found = model.summarise(
        times['ours']['forward'], times['reference']['forward'], batch=4
    )
    assert found == {
        'median_ms': 2000,
        'quartiles_ms': [2000, 11000],
        'ratio': 2,  # median of 2, 1, 5
        'videos_per_s': 2,
        'all_ms': [2000, 2000, 20000],
    }


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_peak_is_the_moment_with_the_most_memory():
    def work():  # not by malloc, which may keep what is freed
        for size in (64_000_000, 32_000_000):
            with mmap.mmap(-1, size) as memory:
                memory[::4096] = bytes(len(range(0, size, 4096)))

    work()  # an earlier peak does not count
    peak = model.peak_of(work, torch.device('cpu'))
    assert peak == pytest.approx(64e6, rel=0.1)


# --- The tool -----------------------------------------------------------------------


def run(*arguments):
    quick = ['--warmup', '0', '--repeats', '2', '--device', 'cpu']
    return benchmark.main([*map(str, arguments), *quick])


@pytest.mark.slow
def test_sweep_survives_json_and_is_drawn_without_measuring(
    tmp_path, monkeypatch, capsys
):
    out, picture = tmp_path / 'a' / 'sweep.json', tmp_path / 'b' / 'sweep.png'
    axes = ['frames=2,3', 'batch=1,2', f'arch={TINY},ViT-moving-shapes']
    assert run('--arch', TINY, '--frames', 2, '--out', out, '--sweep', *axes) == 0
    measured = capsys.readouterr().out
    report = json.loads(out.read_text())
    sizes = [(p['axis'], p['arch'], p['frames'], p['batch']) for p in report['points']]
    assert sizes == [
        ('frames', TINY, 2, 1),
        ('frames', TINY, 3, 1),
        ('batch', TINY, 2, 1),
        ('batch', TINY, 2, 2),
        ('arch', TINY, 2, 1),
        ('arch', 'ViT-moving-shapes', 2, 1),
    ]
    names = ['open_clip', 'stop-joint', 'stop-frame']
    for point in report['points']:
        assert list(point['contestants']) == names
        for result in point['contestants'].values():
            works = [result[work] for work in ('forward', 'step')]
            assert all(len(w['all_ms']) == 2 for w in works)
            assert all(w['median_ms'] == np.median(w['all_ms']) for w in works)
    assert report['versions']['torch'] == torch.__version__

    monkeypatch.setattr(benchmark, 'Contestant', None)
    assert benchmark.main([str(out), '--plot', str(picture)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(measured.rstrip()) and 'stop-frame' in shown
    assert np.asarray(Image.open(picture)).std() > 10
    figure = report_script.plot(report)
    assert len(figure.axes) == 9
    points = report['points'][:2]
    for panel, work in zip(figure.axes, ('forward', 'step')):
        drawn = {bars.get_label(): bars[0] for bars in panel.containers}
        for name in names:
            medians = [p['contestants'][name][work]['median_ms'] for p in points]
            assert drawn[name].get_xydata().tolist() == [
                [2, medians[0]],
                [3, medians[1]],
            ]
    ratios = {line.get_label(): line.get_ydata() for line in figure.axes[2].lines}
    joint = [p['contestants']['stop-joint']['step']['ratio'] for p in points]
    assert list(ratios['stop-joint, training step']) == joint


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
@pytest.mark.slow
def test_memory_is_measured_in_another_process(tmp_path):
    out = tmp_path / 'out.json'
    setup = contestant('stop-joint').setup
    peaks = model.peak_memory_elsewhere(setup)
    state = 4 * 3 * 632_000  # gradients and both moments of the parameters
    assert state < 1e6 * peaks['step'] < 10 * state
    assert run('--arch', TINY, '--methods', 'clip', '--out', out) == 0
    (point,) = json.loads(out.read_text())['points']
    assert point['contestants']['clip']['memory_mb'] is None, 'not asked for'


def test_config_and_its_data_are_measured(tmp_path, capsys):
    config, out = write_tiny_run(tmp_path), tmp_path / 'out.json'
    pairs = [config, '--pipeline', config, '--methods', 'tiny', '--out', out]
    assert run(*pairs, '--workers', 0, 2, '--num-videos', 5) == 0
    printed = capsys.readouterr().out
    report = json.loads(out.read_text())
    (point,) = report['points']
    assert (point['frames'], point['batch'], point['arch']) == (4, 2, TINY)
    tiny = point['contestants']['tiny']
    assert tiny['trainable_parameters'] == 632_000
    rows = report['pipeline']['rows']
    assert [(r['decoder'], r['workers']) for r in rows] == [
        (decoder, n) for decoder in ('pyav', 'decord') for n in (0, 2)
    ]
    needed = tiny['step']['videos_per_s']
    assert report['pipeline']['needed'] == needed
    for row in rows:
        waits = 'the model waits' if row['videos_per_s'] < needed else 'data wait'
        assert f'{row["videos_per_s"] / needed:.2f} of the need: {waits}' in printed

    assert run('--pipeline', config, '--workers', 0, '--num-videos', 1) == 0
    assert 'of the need' not in capsys.readouterr().out


def test_reading_is_measured_on_videos_of_its_own(tmp_path, capsys, monkeypatch):
    small = reading.Made('1 s', 1, 64, 48)
    monkeypatch.setattr(reading, 'VIDEOS', (small,))
    out = tmp_path / 'out.json'
    assert run('--pipeline', '--out', out) == 0
    printed = capsys.readouterr().out
    rows = json.loads(out.read_text())['reading']
    assert [(r['video'], r['frames']) for r in rows] == [
        ('1 s, 64 x 48', 12),
        ('1 s, 64 x 48', 64),
    ]
    for row in rows:
        assert list(row['ms']) == ['pyav', 'decord'] and row['ratio'] > 0
        assert f'{row["ratio"]:.2f}' in printed
    assert benchmark.main([str(out)]) == 0
    assert capsys.readouterr().out == printed


def test_decoder_is_replaced_wherever_it_stands():
    steps = [
        dict(type='mmaction.DecordInit', num_threads=2, io_backend='petrel'),
        dict(type='Resize', scale=(-1, 256)),  # MMAction2 wants the tuple
        dict(type='DecordDecode', mode='efficient'),
    ]
    dataset = dict(type='RepeatDataset', dataset=dict(pipeline=steps))
    found = data.by_decoder(dataset)
    assert found['decord']['dataset']['pipeline'] == [
        dict(type='CheckedDecordInit', io_backend='petrel', decoder='decord'),
        *steps[1:],
    ]
    exact = found['pyav']['dataset']['pipeline']
    assert exact[0] == dict(
        type='CheckedDecordInit', io_backend='petrel', decoder='pyav'
    )
    assert isinstance(exact[1]['scale'], tuple)
    other = [dict(type='PyAVInit'), dict(type='PyAVDecode', mode='efficient')]
    assert data.redecode(other, 'pyav') == [
        dict(type='CheckedDecordInit', decoder='pyav'),
        dict(type='DecordDecode', mode='efficient'),
    ]
    frames = dict(type='RawframeDataset', pipeline=[dict(type='RawFrameDecode')])
    assert data.by_decoder(frames) == {'as configured': frames}


def test_throughput_skips_the_start_and_goes_on_with_the_next_epoch():
    now = 0

    def epoch():
        nonlocal now
        for seconds, videos in ((1000, 4), (1, 4), (2, 2)):
            now += seconds
            yield {'inputs': {}, 'data_samples': [None] * videos}

    batches = type('Batches', (), {'__iter__': lambda self: epoch()})()
    rate = data.throughput(batches, 7, skip=1, clock=lambda: now)
    assert rate == 10 / 1003  # 4 + 2 videos, and 4 of the second epoch


# --- Errors -------------------------------------------------------------------------


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--methods', 'nope'], '--methods nope: choose from open_clip, clip, stop-jo'),
        (['--arch', 'ViT-B-31'], "arch='ViT-B-31' is not .* did you mean ViT-B-32"),
        (['--arch', 'RN50'], 'not a CLIP with plain transformers'),
        (['--arch', 'missing.json'], 'there is no such file'),
        (['--frames', '0'], '--frames 0: it must be at least 1'),
        (['--batch', '-1'], '--batch -1: it must be at least 1'),
        (['--num-videos', '0'], '--num-videos 0: it must be at least 1'),
        (['--workers', '-1'], '--workers -1: it must be at least 0'),
        (['--sweep', 'frame=4'], '--sweep frame=4: the axes are frames, batch, arch'),
        (['--sweep', 'frames=4,0'], '--sweep frames=4,0: give numbers of at least 1'),
        (
            ['--sweep', f'arch={TINY},ViT-B-31'],
            "arch='ViT-B-31' is not .* did you mean",
        ),
        (['--plot', 'a.png'], '--plot draws a sweep; add --sweep'),
        (['missing.json'], 'missing.json: there is no such file'),
        (['missing.py'], "'missing.py': there is no such file"),
        ([TINY], 'was not written by this tool .* give an architecture with --arch'),
    ],
)
def test_errors_are_one_line(arguments, message, capsys):
    assert run(*arguments) == 2
    assert_error(capsys, message)


def assert_error(capsys, message):
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: ')
    with pytest.raises(ValueError, match=message):
        raise ValueError(line)


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_gpu_that_is_not_there_is_an_error(capsys):
    assert benchmark.main(['--device', 'cuda']) == 2
    assert_error(capsys, 'PyTorch finds no GPU; use --device cpu')


def test_configs_that_cannot_be_measured(tmp_path, capsys):
    path = write_tiny_run(tmp_path)

    def changed(**changes):
        cfg = Config.fromfile(path)
        cfg.merge_from_dict(changes)
        cfg.dump(tmp_path / 'changed.py')
        return tmp_path / 'changed.py'

    foreign = dict(_delete_=True, type='mmaction.ResNet3d', depth=50)
    assert run(changed(**{'model.backbone': foreign})) == 2
    assert_error(capsys, 'ResNet3d.* is neither a CLIP tower nor a method around one')
    lost = changed(**{'train_dataloader.dataset.ann_file': 'lost.txt'})
    assert run('--pipeline', lost) == 2
    assert_error(capsys, 'lost.txt')
    large = changed(
        **{'train_dataloader.batch_size': 9, 'train_dataloader.drop_last': True}
    )
    assert run('--pipeline', large) == 2
    assert_error(capsys, 'the training data fills no batch')
    for key in ('train_dataloader', 'model'):
        cfg = tiny_config(tmp_path)
        del cfg[key]
        Config(cfg).dump(tmp_path / 'less.py')
        assert run(*['--pipeline'][: key != 'model'], tmp_path / 'less.py') == 2
        assert_error(capsys, f'has no {key}')


def test_json_without_a_sweep_has_nothing_to_draw(tmp_path, capsys):
    out = tmp_path / 'out.json'
    assert run('--arch', TINY, '--methods', 'clip', '--out', out) == 0
    assert run(out, '--plot', tmp_path / 'a.png') == 2
    assert_error(capsys, 'no sweep to draw; measure it with --sweep')


# --- Ranking ------------------------------------------------------------------------


def test_rankings_take_turns():
    now, order = 0, []

    def work(name, seconds):
        def run():
            nonlocal now
            now += seconds
            order.append(name)

        return run

    works = {'ours': work('ours', 1), 'theirs': work('theirs', 5)}
    assert model.rounds_of(works, 3, lambda: now) == {
        'ours': [1] * 3,
        'theirs': [5] * 3,
    }
    assert order == ['ours', 'theirs'] * 3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_rankings_agree_where_each_video_has_one_caption(tmp_path, capsys):
    out = tmp_path / 'a' / 'out.json'
    sizes = ['--videos', '200', '--captions', '1', '--width', '32', '--threads', '1']
    assert retrieval.main([*sizes, '--repeats', '2', '--out', str(out)]) == 0
    report = json.loads(out.read_text())
    assert (report['videos'], report['captions'], report['width']) == (200, 200, 32)
    found = report['contestants']
    assert list(found) == ['mmstop', 'RetrievalMetric', 'sorted matrix']
    assert len({round(result['recall'], 6) for result in found.values()}) == 1
    assert 0 < found['mmstop']['recall'] < 100
    assert all(len(result['seconds']) == 2 for result in found.values())
    printed = capsys.readouterr().out
    assert '200 captions of 200 videos' in printed and 'sorted matrix' in printed
    with pytest.raises(SystemExit):
        retrieval.main(['--videos', '0'])
    assert '--videos 0: it must be at least 1' in capsys.readouterr().err


@pytest.mark.slow
def test_smaller_videos_are_measured_beside_whole_ones(capsys):
    quick = ['--workers', '0', '--videos', '4', '--repeats', '1']
    rows = shrinking.main(quick, reading.Made('1 s', 1, 320, 240))
    assert [(row['videos'], row['decoder']) for row in rows] == [
        (videos, decoder)
        for videos in ('whole', 'small', 'small, 3 fps')
        for decoder in ('pyav', 'decord')
    ]
    assert all(row['videos_per_s'] > 0 for row in rows)
    assert capsys.readouterr().out.count('\n') == 7
