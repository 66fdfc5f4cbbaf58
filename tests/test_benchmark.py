"""What the benchmarks report is what is known by hand; no test asserts seconds."""

import functools
import itertools
import json
import mmap
import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import benchmark
import benchmark_gpu
import benchmark_retrieval as retrieval
import benchmark_use as use
import benchmark_videos as videos
import contestants
import measuring
import numpy as np
import pytest
import torch
from mmengine.config import Config
from pages import ROOT, commands_of
from tiny import TINY, VIT, still, wild
from tiny_run import tiny_config, write_tiny_run

from mmstop.registry import MODELS

# The tiny tower: D, MLP width, blocks, patches, embedding, pixels of a patch.
D, WIDE, DEPTH, N, E, PIXELS = 64, 256, 3, 16, 32, 3 * 8 * 8
HEADS = 2
B, T = 2, 5
SETUP = contestants.Setup(TINY, T, B)


def contestant(tower):
    return contestants.Contestant(contestants.METHODS.get(str(tower), tower), SETUP)


# --- Counts -------------------------------------------------------------------------


def by_hand(queries):
    """MACs of a frame: (queries of each block) over 1 + N keys."""
    L = 1 + N
    macs = N * PIXELS * D + D * E  # patches; projection of CLS
    for q in queries:
        if q == 1:  # keys and values are not projected, only what one query reads
            macs += 3 * D * D + 2 * HEADS * L * D
        else:
            macs += q * D * D + L * D * 2 * D  # to queries; to keys and values
            macs += 2 * q * L * D  # scores and their weighted sum
        macs += q * D * D + 2 * q * D * WIDE  # out of the heads; the MLP
    return macs


def test_macs_equal_those_by_hand():
    def macs(tower):
        made = contestant(tower)
        before = made.forward()
        counted = contestants.count_macs(made)
        assert torch.equal(made.forward(), before)
        return counted / (B * T)

    fast = torch.backends.mha.get_fastpath_enabled()
    plain = by_hand([1 + N] * DEPTH)
    ours = by_hand([1 + N] * (DEPTH - 1) + [1])
    attention = 2 * D * D + HEADS * N * D  # Eq. 2: query, what it looks for, scores
    off = dict(type='STOPCLIPViT', num_spatial=0, temporal_scale=0, attention='frame')
    assert macs('open_clip') == plain
    assert macs('clip') == ours < plain
    assert macs(off) == ours + DEPTH * attention
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_prompts_are_counted_over_videos_and_blocks():
    made = contestant('stop-joint')
    made.video = torch.cat([still(1, T), wild(1, T)])
    counts = [
        trace.num_prompts.sum(1).tolist() for trace in made.model.traces(made.video)
    ]
    assert counts[0][0] == 0 < counts[0][1]
    assert contestants.count_prompts(made) == pytest.approx(np.mean(counts))
    assert contestants.count_prompts(contestant('clip')) == 0


# --- Works and their costs ----------------------------------------------------------


def test_reference_gives_what_our_tower_gives():
    ours, theirs = contestant('clip'), contestant('open_clip')
    assert torch.equal(ours.video, theirs.video)
    torch.testing.assert_close(ours.forward(), theirs.forward())


# The tiny tower has 16 patches, of which a block merges at most 8 pairs.
@pytest.mark.parametrize('name', [n for n in contestants.METHODS if '16' not in n])
def test_step_reaches_what_it_should_and_changes_nothing(name):
    made = contestant(name)
    before = {key: value.clone() for key, value in made.model.state_dict().items()}
    made.step()
    made.step()
    for key, parameter in made.model.named_parameters():
        assert torch.equal(parameter, before[key]), key
        assert (parameter.grad is not None) == parameter.requires_grad, key
    leaf = made.trained[0] if made.trained else made.video
    assert leaf.grad.abs().sum() > 0
    assert (made.video.grad is None) == bool(made.trained)
    assert not made.forward().requires_grad


def test_arch_is_filled_in_through_all_layers():
    around = dict(
        type='mmstop.DeepPromptCLIPViT', clip=dict(type='STOPCLIPViT', clip=VIT)
    )
    filled = contestants.with_arch(around, 'other')
    assert filled['clip']['clip'] == dict(VIT, arch='other', weights=None)
    assert around['clip']['clip'] == VIT
    # The default of a method would be downloaded.
    filled = contestants.with_arch(dict(type='STOPCLIPViT'), TINY)
    assert MODELS.build(filled).clip.source == 'random'


def test_works_take_turns_after_a_round_that_does_not_count():
    order = []
    works = {name: (lambda name=name: order.append(name)) for name in 'ab'}
    seconds = measuring.rounds(works, 3)
    assert order == ['a', 'b'] * 4
    assert [len(times) for times in seconds.values()] == [3, 3]


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_peak_is_the_moment_with_the_most_memory():
    def work():  # not by malloc, which may keep what is freed
        for size in (64_000_000, 32_000_000):
            with mmap.mmap(-1, size) as memory:
                memory[::4096] = bytes(len(range(0, size, 4096)))

    work()  # an earlier peak does not count
    assert measuring.added_mb(work) == pytest.approx(64, rel=0.1)


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
@pytest.mark.slow
def test_memory_is_measured_in_another_process():
    found = measuring.alone(contestants.peaks, contestants.METHODS['stop-joint'], SETUP)
    state = 4 * 3 * 632_000 / 1e6  # gradients and both moments of the parameters
    assert state < found['step_mb'] < 10 * state


def test_batches_double_until_the_memory_is_full(tmp_path, monkeypatch):
    measured = functools.cache(benchmark_gpu.measure_size)

    def small(name, setup, repeats):
        if setup.batch * setup.frames > 8:
            raise torch.OutOfMemoryError
        row = measured(name, setup._replace(frames=2, batch=1), repeats)  # quick
        return {**row, 'frames': setup.frames, 'batch': setup.batch}

    monkeypatch.setattr(benchmark_gpu, 'measure_size', small)
    monkeypatch.setattr(benchmark_gpu, 'decode_seconds', lambda frames: 100 * frames)
    monkeypatch.setattr('os.cpu_count', lambda: 50)
    out = tmp_path / 'gpu.json'
    options = ['--device', 'cpu', '--dtype', 'float32', '--arch', TINY]
    options += ['--frames', '2', '3', '--methods', 'open_clip', 'stop-joint']
    options += ['--repeats', '1', '--most', '3', '--out', str(out)]
    benchmark_gpu.main(options)
    rows = json.loads(out.read_text())['rows']
    sizes = [(row['tower'], row['frames'], row['batch']) for row in rows]
    assert sizes == [
        (name, T, B)
        for T in (2, 3)
        for name in ('open_clip', 'stop-joint')
        for B in (1, 2)
    ]
    for row in rows:
        decoding, step = 2 * row['frames'], 1 / row['step_videos_per_s']
        assert row['decoding'] == pytest.approx(decoding / (decoding + step))
    benchmark_gpu.main([*options, '--most', '9', '--methods', 'stop-joint'])
    rows = json.loads(out.read_text())['rows']
    assert [(r['frames'], r['batch']) for r in rows] == [
        (2, 1), (2, 2), (2, 4), (3, 1), (3, 2),
    ]  # fmt: skip
    clock = SimpleNamespace(monotonic=itertools.count(0, 10).__next__)
    monkeypatch.setattr(benchmark_gpu, 'time', clock)
    benchmark_gpu.main([*options, '--seconds', '15'])
    rows = json.loads(out.read_text())['rows']
    # One larger size fits into the time, and every method gets its first.
    assert [(r['frames'], r['batch']) for r in rows] == [
        (2, 1), (2, 2), (2, 1), (3, 1), (3, 1),
    ]  # fmt: skip


# --- The commands -------------------------------------------------------------------


def test_sweep_of_a_config_is_written_tabulated_and_drawn(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(benchmark, 'SWEEPS', {'frames': [2, 3], 'arch': [TINY]})
    config, out = write_tiny_run(tmp_path), tmp_path / 'out.json'
    picture = tmp_path / 'out.png'
    arguments = [config, '--methods', 'clip', '--frames', 4, '--repeats', 2]
    arguments += ['--sweep', 'frames', 'arch', '--out', out, '--plot', picture]
    assert benchmark.main(map(str, arguments)) == 0
    rows = json.loads(out.read_text())['rows']
    names = ['open_clip', 'clip', 'tiny']
    points = [('frames', 2), ('frames', 3), ('arch', 4)]
    assert [(r['axis'], r['frames'], r['tower']) for r in rows] == [
        (*point, name) for point in points for name in names
    ]
    assert {(row['arch'], row['batch']) for row in rows} == {(TINY, 2)}
    assert [row['trained'] for row in rows[:3]] == [0, 0, 632_000]
    for reference, _, row in zip(rows[::3], rows[1::3], rows[2::3]):
        ratios = np.divide(row['step_ms'], reference['step_ms'])
        assert row['step_ratio'] == pytest.approx(ratios) and len(ratios) == 2
    printed = re.findall(r'^\| tiny \| ([\d.]+) \|', capsys.readouterr().out, re.M)
    ratios = [np.median(row['forward_ratio']) for row in rows[2::3]]
    assert printed == [f'{ratio:.2f}' for ratio in ratios]
    assert picture.stat().st_size > 10_000
    legend = benchmark.plot(rows).axes[-1].get_legend()
    assert [text.get_text() for text in legend.texts] == names


def test_commands_of_the_page_can_be_run():
    commands = [shlex.split(command)[1:] for command in commands_of('speed.md')]
    assert all((ROOT / script).exists() for script, *_ in commands)
    own = [rest for script, *rest in commands if script.endswith('/benchmark.py')]
    assert len([benchmark.parse_args(arguments) for arguments in own]) == 5


def test_data_of_a_config_are_loaded_by_each_decoder(tmp_path, capsys):
    config = str(write_tiny_run(tmp_path))
    few = ['--workers', '0', '2', '--num-videos', '5', '--repeats', '1']
    assert videos.main([config, *few]) == 0
    rows = re.findall(r'\| (\w+) \| (\d) \| [\d.,]+ \|', capsys.readouterr().out)
    assert rows == [(d, n) for d in ('pyav', 'decord') for n in '02']
    step = dict(type='mmaction.CheckedDecordInit', io_backend='petrel')
    resize = dict(type='Resize', scale=(-1, 256))  # a tuple stays one
    dataset = dict(type='RepeatDataset', dataset=dict(pipeline=[step, resize]))
    found = videos.with_decoder(dataset, 'decord')['dataset']['pipeline']
    assert found == [dict(step, decoder='decord'), resize]


def test_decoders_read_the_same_videos(capsys, monkeypatch):
    monkeypatch.setattr(videos, 'VIDEOS', [videos.Video(1, 64, 48)])
    assert videos.main(['decoders', '--repeats', '1']) == 0
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head == '| video | frames | pyav, ms | decord, ms | ratio |'
    starts = [f'| 1 s, 64 x 48 | {frames} |' for frames in (12, 64)]
    assert [row[: len(start)] for row, start in zip(rows, starts)] == starts


@pytest.mark.slow
def test_smaller_videos_are_measured_beside_whole_ones(capsys, monkeypatch):
    monkeypatch.setattr(videos, 'WHOLE', videos.Video(1, 320, 240))
    quick = ['--workers', '0', '--num-videos', '8', '--repeats', '1']
    assert videos.main(['shrinking', *quick]) == 0
    rows = re.findall(r'\| (.*) \| (\w+) \| 0 \| [\d.]+ \|', capsys.readouterr().out)
    names = ('whole', 'small', '3 fps')
    assert rows == [(name, d) for name in names for d in ('pyav', 'decord')]


def test_embedding_waits_for_the_model_or_for_videos(capsys, monkeypatch):
    monkeypatch.setattr(videos, 'VIDEOS', [videos.Video(1, 64, 48)])
    monkeypatch.setattr(videos, 'ARCH', 'ViT-moving-shapes')
    few = ['--workers', '1', '2', '--num-videos', '3']
    assert videos.main(['embedding', *few]) == 0
    rows = re.findall(r'\| (\d) \| [\d.]+ \| ([\d.]+) \|', capsys.readouterr().out)
    assert [workers for workers, _ in rows] == ['1', '2']
    assert all(0 < float(share) < 1 for _, share in rows)


def test_checkpoints_are_smaller_without_the_optimizer(tmp_path):
    found = use.save(str(write_tiny_run(tmp_path)), str(tmp_path))
    assert found['whole, MB'] > found['without optimizer, MB'] > 0


@pytest.mark.slow
def test_a_search_is_taken_apart(capsys):
    use.main(['search', '--rows', '2000', '--arch', 'ViT-moving-shapes'])
    found = json.loads(capsys.readouterr().out)
    assert len(found) == 6 and min(found.values()) >= 0 < found['the command']


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_rankings_agree_where_each_video_has_one_caption(capsys, monkeypatch):
    monkeypatch.setattr(retrieval, 'CAPTIONS', 1)
    monkeypatch.setattr(retrieval, 'alone', lambda work, *args: work(*args))
    threads = str(torch.get_num_threads())
    retrieval.main(['--videos', '200', '--repeats', '1', '--threads', threads])
    rows = re.findall(r'^\| ([\w ]+) \|.* ([\d.]+) \|$', capsys.readouterr().out, re.M)
    names, recalls = zip(*rows)
    assert names == tuple(retrieval.CONTESTANTS)[:-1]  # two products give no recall
    assert len(set(recalls)) == 1 and 0 < float(recalls[0]) < 100


# --- Errors -------------------------------------------------------------------------


def test_arguments_are_refused(capsys):
    for arguments, message in (
        (['--methods', 'nope'], "invalid choice: 'nope'"),
        (['--frames', '0'], '0: it must be a whole number of at least 1'),
        (['--plot', 'a.png'], '--plot draws a sweep; add --sweep'),
    ):
        with pytest.raises(SystemExit, match='2'):
            benchmark.main(arguments)
        assert message in capsys.readouterr().err


def test_errors_are_one_line(tmp_path, capsys):
    write_tiny_run(tmp_path)
    config = str(tmp_path / 'changed.py')
    foreign = dict(_delete_=True, type='mmaction.ResNet3d', depth=50)
    large = {'train_dataloader.batch_size': 9, 'train_dataloader.drop_last': True}
    for tool, changes, message in (
        (benchmark, {'model.backbone': foreign}, 'ResNet3d is neither a CLIP tower'),
        (benchmark, {'model.backbone.clip.arch': 'ViT-B-31'}, 'did you mean ViT-B-32'),
        (videos, {'train_dataloader.dataset.ann_file': 'lost.txt'}, 'lost.txt'),
        (videos, large, 'the training data fills no batch'),
    ):
        cfg = Config(tiny_config(tmp_path))
        cfg.merge_from_dict(changes)
        cfg.dump(config)
        assert_error(tool.main([config]), capsys, message)
    Path(config).write_text("work_dir = 'x'\n")
    assert_error(benchmark.main([config]), capsys, 'has no model.backbone to measure')
    assert_error(videos.main([config]), capsys, 'has no train_dataloader to measure')


def assert_error(status, capsys, message):
    (line,) = capsys.readouterr().err.splitlines()
    assert status == 2 and line.startswith('error: ') and message in line


def test_counter_takes_towers_that_enter_blocks_with_views_of_parameters():
    made = dict(type='DGLCLIPViT', prompter='transformer', num_frames=2)
    contestant = contestants.Contestant(made, contestants.Setup(TINY, 2, 1))
    assert contestants.count_macs(contestant) > 0
    assert all(p.requires_grad for p in contestant.trained)
