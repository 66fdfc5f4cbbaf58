"""Pictures show what was chosen and found; the ablation prints what it measured."""

import json
import re
from collections import Counter

import ablation
import ablation_report
import contestants
import draw_retrieval
import draw_trace
import matplotlib.pyplot as plt
import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image
from test_tools import train
from tiny import TINY
from tiny_run import COLOURS, write_tiny_retrieval, write_tiny_run

from mmstop.visualization import Found, Query, plot_rankings


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    path = write_tiny_run(tmp_path_factory.mktemp('analysis'))
    cfg = Config.fromfile(path)
    cfg.default_hooks.checkpoint.update(save_best='acc/top1', rule='greater')
    cfg.dump(path)
    return path


@pytest.mark.slow
def test_draw_trace_draws_the_frames_of_test_videos(config, tmp_path):
    one = ['--cfg-options', 'train_cfg.max_epochs=1']
    assert train.main([str(config), *one]) == 0
    checkpoint = config.parent / 'work' / 'epoch_1.pth'
    out = tmp_path / 'folder' / 'trace.png'
    draw_trace.main([str(config), str(checkpoint), '--out', str(out), '--num', '2'])
    picture = np.asarray(Image.open(out)).astype(int)
    red, green, blue = picture.reshape(-1, 3).T
    assert ((red > 150) & (green < 90) & (blue < 90)).sum() > 500, 'the red video'
    assert ((blue > 150) & (green < 90) & (red < 90)).sum() > 500, 'the blue video'
    assert picture.shape[1] == 1600 and len(picture) <= 1000
    strips = sorted(path.name for path in out.with_suffix('').iterdir())
    assert strips == ['000000.png', '000004.png']


def test_picture_of_rankings_shows_what_was_found():
    generator = np.random.default_rng(0)
    queries = [
        Query(
            caption=f'query {q}',
            rank=2 - q,
            found=[
                Found(
                    generator.integers(256, size=(3, 8, 8, 3), dtype=np.uint8),
                    caption=f'video {q}{i}',
                    score=0.9 - i / 10,
                    correct=i == 1 - q,
                )
                for i in range(2)
            ],
        )
        for q in range(2)
    ]
    figure = plot_rankings(queries, 7)
    for query, row in zip(queries, figure.subfigs):
        assert f'{query.caption}”' in row.get_suptitle()
        assert f'rank {query.rank} of 7' in row.get_suptitle()
        for video, axes in zip(query.found, row.axes):
            (image,) = axes.images
            shown = np.stack(np.split(np.asarray(image.get_array()), 3, axis=1))
            assert (shown == video.frames).all()
            mark = ' (correct)' if video.correct else ''
            assert axes.get_title(loc='left') == f'{video.score:.3f}{mark}'
            assert axes.get_xlabel() == video.caption
            assert (axes.spines['top'].get_edgecolor()[3] > 0) == video.correct
    plt.close(figure)


def test_draw_retrieval_ranks_the_test_videos(tmp_path, monkeypatch, capsys):
    config = write_tiny_retrieval(tmp_path)
    cfg = Config.fromfile(config)
    cfg.model.backbone = cfg.model.backbone.clip  # zero-shot: it needs no checkpoint
    cfg.dump(config)
    out = tmp_path / 'folder' / 'found.png'
    drawn = []

    def keep(queries, num_videos):
        drawn.append((queries, num_videos))
        return plot_rankings(queries, num_videos)

    monkeypatch.setattr(draw_retrieval, 'plot_rankings', keep)
    draw_retrieval.main([str(config), '--out', str(out), '--num', '3', '--topk', '5'])
    ((queries, num_videos),) = drawn
    assert num_videos == 5
    assert [q.caption for q in queries] == [
        '0 times red',
        '0 times blue',
        '0 times green',
    ]
    for query, own in zip(queries, (0, 2, 4)):
        scores = [video.score for video in query.found]
        assert scores == sorted(scores, reverse=True)
        place = [video.correct for video in query.found].index(True)
        assert query.rank == 1 + place or scores[place] in scores[place + 1 :]
        shown = query.found[place].frames[
            0, 0, 0
        ]  # of one colour but for a dark square
        assert np.abs(shown - np.array(list(COLOURS.values())[own % 3])).max() < 60
    picture = np.asarray(Image.open(out)).astype(int)
    red, green, blue = picture.reshape(-1, 3).T
    assert ((red > 150) & (green < 90) & (blue < 90)).sum() > 500, 'the red videos'

    captions = json.loads((tmp_path / 'test.json').read_text())
    single = {video: [texts[i]] for i, (video, texts) in enumerate(captions.items())}
    (tmp_path / 'single.json').write_text(json.dumps(single))
    more = ['--cfg-options', 'test_dataloader.dataset.ann_file=single.json']
    more += ['--num', '5', '--out', str(out), '--parts']
    parts = r'(?P<number>\d+) times (?P<colour>\w+)'
    assert draw_retrieval.main([str(config), *more, parts]) == 0
    wrong = Counter()
    for query in drawn[1][0]:
        asked, shown = query.caption.split(), query.found[0].caption.split()
        names = {0: 'number', 2: 'colour'}
        differing = [names[i] for i in names if asked[i] != shown[i]]
        wrong[' and '.join(differing) or 'nothing'] += 20.0
    assert wrong.keys() - {'nothing'}, 'a random tower finds some wrong videos'
    printed = capsys.readouterr().out
    for names, share in wrong.items():
        assert f'| {names} | {share:.2f} |' in printed
    assert draw_retrieval.main([str(config), *more, '(?P<number>x+)']) == 2
    error = capsys.readouterr().err
    assert "'(?P<number>x+)'" in error and "'0 times red'" in error
    for faulty, message in (('(', 'missing )'), ('x+', 'names no part')):
        with pytest.raises(SystemExit):
            draw_retrieval.main([str(config), '--parts', faulty])
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_ablation_tests_its_runs_otherwise(tmp_path, capsys):
    config = write_tiny_retrieval(tmp_path)
    arguments = [str(config), '--seeds', '0', '--rows', 'both']
    arguments += ['--work-dir', str(tmp_path / 'w'), '--metric', 'retrieval/t2v/MnR']
    merging = ['--test-merging', 'clip.merge=2', '--jobs', '2']
    ablation.main([*arguments, *merging])  # both rows wait for the same run
    checkpoints = {p: p.stat().st_mtime for p in tmp_path.glob('w/**/*.pth')}
    assert len([p for p in checkpoints if p.name.startswith('best')]) == 1
    other = 'test_dataloader.dataset.ann_file=train.json'
    ablation.main([*arguments, '--test-options', other])
    assert {p: p.stat().st_mtime for p in tmp_path.glob('w/**/*.pth')} == checkpoints
    printed = re.findall(r'\| both.* \| ([\d.]+) \|', capsys.readouterr().out)
    results = [json.loads(p.read_text()) for p in tmp_path.glob('w/*/*/result*.json')]
    found = [f'{r["retrieval/t2v/MnR"]:.1f}' for r in results]
    assert len(results) == 3 and sorted(printed) == sorted(found)


@pytest.mark.slow
def test_ablation_prints_what_it_measured(config, tmp_path, runs, capsys):
    arguments = [str(config), '--seeds', '0', '1', '--work-dir', str(tmp_path)]
    arguments += ['--rows', 'neither', '--vary', 'num_spatial=0']
    arguments += ['--json', str(tmp_path / 'found.json')]

    def printed():  # the runs log in between
        lines = capsys.readouterr().out.splitlines()
        return [line for line in lines if line.startswith('|')]

    ablation.main(arguments)
    first = printed()
    results = [
        100 * json.loads(path.read_text())['acc/top1']
        for path in sorted(tmp_path.glob('*/both-num-spatial-0-seed*/result.json'))
    ]
    each = ', '.join(f'{value:.1f}' for value in results)
    row = rf'\| both, num_spatial=0 \| {sum(results) / 2:.1f} \| {each} \|'
    assert len(results) == 2 and re.search(row, '\n'.join(first))
    found = json.loads((tmp_path / 'found.json').read_text())
    assert list(found) == [config.stem] and set(found[config.stem]['neither']) == {'0'}
    assert [
        100 * found[config.stem]['both, num_spatial=0'][seed]['acc/top1']
        for seed in '01'
    ] == pytest.approx(results, abs=1e-3)
    text = config.read_text()
    config.write_text(text.replace('lr=0.001', 'lr=0.002'))
    assert ablation.main(arguments) == 2
    assert 'with "lr": 0.001 instead of "lr": 0.002; ' in capsys.readouterr().err
    config.write_text(text)
    assert ablation.main(arguments) == 0 and printed() == first
    config.unlink()  # finished runs need nothing any more
    ablation.main(arguments)
    config.write_text(text)  # for other tests
    assert printed() == first


def test_ablation_draws_what_it_measured_against_the_cost(
    config, tmp_path, monkeypatch
):
    drawn, draw = {}, ablation.draw
    monkeypatch.setattr(
        ablation, 'measure_all', lambda _, rows, *rest: {row: [50, 52] for row in rows}
    )
    monkeypatch.setattr(
        ablation, 'draw', lambda gmacs, *rest: drawn.update(gmacs) or draw(gmacs, *rest)
    )
    picture, merged = tmp_path / 'cost.png', 'depth=1 clip.merge=4'
    arguments = [
        '--rows',
        'both',
        '--vary',
        'depth=1',
        merged,
        f'{merged} merge_frames=1',
    ]
    assert ablation.main([str(config), *arguments, '--cost', str(picture)]) == 0
    made = contestants.METHODS['stop-joint-input'], contestants.Setup(TINY, 12, 1)
    expected = contestants.count_macs(contestants.Contestant(*made)) / 1e9
    assert drawn['both, depth=1'] == expected > drawn[f'both, {merged}']
    assert drawn[f'both, {merged}'] == drawn[f'both, {merged} merge_frames=1'] > 0
    assert np.asarray(Image.open(picture)).std() > 0


def test_report_of_ablations_has_mean_error_and_seeds(tmp_path, capsys):
    acc = [{'acc/top1': x, 'acc/mean1': 0.0} for x in (0.5, 0.6, 0.1, 0.7, 0.2)]
    found = {
        'stop_moving_shapes': {
            'both, num_spatial=2': {'0': acc[4]},
            'both': {'10': acc[1], '2': acc[0], '0': acc[3]},
            'neither': {'0': acc[2]},
        },
        'stop_moving_shapes_retrieval x=1': {
            'both': {'0': {'retrieval/t2v/R1': 12.34, 'retrieval/t2v/R5': 50.0}}
        },
    }
    path = tmp_path / 'found.json'
    path.write_text(json.dumps(found))
    ablation_report.main([str(path)])
    page = path.with_suffix('.md').read_text()
    assert re.findall(r'^\| (?!---)(.*) \|$', page, re.M) == [
        '`stop_moving_shapes`, top-1 accuracy | mean | standard error | seeds',
        'neither | 10.0 | – | 10.0',
        'both | 60.0 | 5.8 | 70.0, 50.0, 60.0',
        'both, num_spatial=2 | 20.0 | – | 20.0',
        '`stop_moving_shapes_retrieval`, text-to-video R@1 | mean | standard error '
        '| seeds',
        'both | 12.3 | – | 12.3',
    ]
    assert '## Moving Shapes, captions, x=1' in page
    assert not path.with_suffix('.png').exists()  # one value makes no line
    rows = found['stop_moving_shapes']
    rows['both, num_spatial=12'] = {'0': acc[0], '1': acc[1]}
    rows |= {f'both, prompter=figure strength={x}': {'0': acc[0]} for x in (0.6, 1)}
    path.write_text(json.dumps(found))
    ablation_report.main([str(path)])
    page = path.with_suffix('.md').read_text()
    assert '![Accuracy by value](found.png)' in page
    assert page.index('num_spatial=2') < page.index('num_spatial=12')
    assert Image.open(path.with_suffix('.png')).size == (480, 420)
    path.unlink()
    assert ablation_report.main([str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert 'found.json' in line and 'ablation.py CONFIG --json writes' in line
