"""The comparison of the methods: what it runs, tunes, measures and reports."""

import csv
import json
import math
from itertools import combinations

import compare
import compare_report
import contestants
import model_zoo
import pytest
from ablation import ROWS
from matplotlib.colors import to_hex
from mmengine.config import Config
from tiny_run import write_tiny_retrieval

TABLES = compare_report.TARGETS['tables']


def test_targets_are_those_of_the_model_zoo():
    for config, value in model_zoo.PAPER.items():
        method, data_set = config.split('_', 1)
        found = [
            compare_report.target(data_set, method, metric)
            for metric in ('acc/top1', 'retrieval/t2v/R1')
        ]
        assert value in found
    for table in TABLES.values():
        for figures in table['rows'].values():
            assert list(figures) == table['data']
            for values in figures.values():
                assert len(values) == len(table['metrics'])
    assert [*TABLES['table4']['rows']] == [*ROWS][:4]
    assert TABLES['table4']['rows']['neither']['ucf101'] == [70.2]


def test_data_sets_that_are_not_there_are_left_out(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert compare.main(['table3']) == 2
    error = capsys.readouterr().err
    assert 'vatex is not there and left out' in error
    assert 'none of activitynet, didemo, vatex is there; prepare one' in error
    args = compare.parse_args(['table2', '--data', 'moving_shapes', 'own'])
    assert compare.data_sets_of(args) == ['moving_shapes_retrieval', 'own']


def test_a_config_that_does_not_exist_is_named(capsys):
    assert compare.main(['table1', '--methods', 'stop', 'x', '--data', 'ssv2']) == 2
    error = capsys.readouterr().err
    assert 'has no x_ssv2.py; for ssv2 it has ' in error and 'unipt' in error


@pytest.fixture
def configs(tmp_path, runs):
    """A folder with three methods on a tiny data set for retrieval."""
    cfg = Config.fromfile(write_tiny_retrieval(tmp_path))
    cfg.default_hooks.logger.interval = 1
    folder = tmp_path / 'configs'
    folder.mkdir()
    cfg.clip_vit, cfg.num_frames = cfg.model.backbone.clip, 4
    cfg.train_cfg.max_epochs = 1
    cfg.dump(folder / 'stop_tiny.py')
    cfg.dump(folder / 'stop_other.py')
    cfg.model.backbone.type = 'TempMeCLIPViT'
    cfg.dump(folder / 'tempme_tiny.py')
    return folder


@pytest.mark.slow
def test_comparison_tunes_runs_measures_and_reports(
    configs, tmp_path, runs, monkeypatch, capsys
):
    results = tmp_path / 'found' / 'comparison.json'
    common = ['--configs', str(configs), '--json', str(results), '--data', 'tiny']
    stop = ['table2', '--methods', 'stop', *common, '--work-dir', str(tmp_path / 'w')]
    stop += ['--seeds', '3', '--jobs', '2']
    run = [*stop, '--rates', '1e-3', '1e-2']
    assert compare.main(run) == 0
    assert runs == ['train.py', 'test.py'] * 2
    row = json.loads(results.read_text())['results']['tiny']['stop']
    assert row['tuning'].keys() == {'1e-3', '1e-2'}
    assert row['tuning'][row['rate']] == max(row['tuning'].values())
    assert 'retrieval/v2t/MnR' in row['seeds']['3']

    monkeypatch.setattr(contestants, 'alone', lambda work, *args: work(*args))
    # A single video would take the tiny tower less than half a MB.
    costs = ['costs', '--methods', 'tempme', *common, '--repeats', '1', '--batch', '64']
    assert compare.main(costs) == 0
    cost = json.loads(results.read_text())['costs']['tempme']
    assert cost['gmacs'] > 0 and cost['forward_ratio'] > 0 and cost['step_mb'] > 0
    with results.with_suffix('.csv').open() as file:
        lines = {line['method']: line for line in csv.DictReader(file)}
    assert float(lines['tempme']['GMACs']) == cost['gmacs']
    assert lines['stop']['paper'] == '7.53' and lines['stop']['seeds'] == '1'
    assert results.with_suffix('.png').stat().st_size > 1000

    assert compare.main(run) == 0 and compare.main(costs) == 0
    assert len(runs) == 4, 'a finished run is reused'
    kept = [*stop, '--rates-of', 'tiny']
    assert compare.main([*kept, '--data', 'other']) == 0
    other = json.loads(results.read_text())['results']['other']['stop']
    assert (other['rate'], other['rate_of']) == (row['rate'], 'tiny')
    line = f'| stop | {row["rate"]}, as on tiny |'
    assert line in results.with_suffix('.md').read_text()
    assert compare.main(kept) == 2
    assert 'stop must choose its rate there first' in capsys.readouterr().err
    for log in tmp_path.glob('w/*/*/*/vis_data/scalars.json'):
        log.unlink()
    assert compare.main(run) == 2
    assert 'has no retrieval/t2v/R1 of the validation' in capsys.readouterr().err


def test_report_puts_the_paper_s_figures_beside_the_measured_ones(tmp_path):
    seeds = {'0': {'acc/top1': 0.7}, '1': {'acc/top1': 0.72}}
    path = tmp_path / 'comparison.json'
    path.write_text(
        json.dumps(
            dict(
                costs=dict(stop=dict(trained=6_533_632, forward_ratio=1.1)),
                results=dict(
                    hmdb51=dict(
                        stop=dict(
                            trained=6_533_632,
                            rate='1e-3',
                            seeds=seeds,
                            tuning={'1e-2': 0.5, '1e-3': 0.65},
                        ),
                        clip=dict(trained=0, seeds={'0': {'acc/top1': 0.4}}),
                    )
                ),
            )
        )
    )
    compare_report.main([str(path)])
    page = path.with_suffix('.md').read_text()
    assert '\n| stop | 6,533,632 | 7.53 | – | 1.10 | – | – |\n' in page
    row = '| stop | 6,533,632 | 6,533,632 | 7.53 | – | 1.10 | – | – | 1e-3 | 2 '
    assert f'{row}| 71.0 ± 1.0 (72.0) |' in page
    assert '| clip | 0 | – | – | – | – | – | – | – | 1 | 40.0 |' in page
    assert '\n| stop | 1e-3: 65.0, 1e-2: 50.0 |\n\n' in page
    found = compare_report.lines_of(json.loads(path.read_text()))
    by_size, by_cost = compare_report.plot(found).axes
    assert [text.get_text() for text in by_size.texts] == ['clip', 'stop']
    assert [text.get_text() for text in by_cost.texts] == ['stop']
    colours = {to_hex(line.get_color()) for line in by_size.lines}
    assert colours == {*map(to_hex, ['C0', 'C3', 'grey'])}, 'others, STOP, the front'


def test_overview_has_every_method_and_a_column_for_each_data_set():
    lines = [{'acc/top1': 0.5}, {'acc/top1': 0.7}], [{'retrieval/t2v/R1': 9.0}]
    seeds = [{'seeds': dict(enumerate(runs))} for runs in lines]
    results = {'first': {'vpt': seeds[0]}, 'moving_shapes_retrieval': {'aim': seeds[1]}}
    costs = {'vpt': {'trained': 1000, 'forward_ratio': 0.5, 'step_ratio': 2.0}}
    assert compare_report.overview({'results': results, 'costs': costs}).split(
        '\n'
    ) == [
        '| method | trained | forward | step | first: top-1 '
        '| Moving Shapes, captions: t2v R1 |',
        '| --- | --- | --- | --- | --- | --- |',
        '| vpt | 1,000 | 0.50 | 2.00 | 60.0 ± 10.0 | – |',
        '| aim | – | – | – | – | 9.0 |',
    ]


def test_overview_of_costs_alone_is_one_clear_error(tmp_path, capsys):
    path = tmp_path / 'costs.json'
    path.write_text('{"costs": {}}')
    with pytest.raises(SystemExit):
        compare_report.main([str(path), '--overview'])
    error = capsys.readouterr().err
    assert f'{path} has no results of compare.py' in error
    assert f'run one with --json {path}' in error


def test_front_keeps_what_nothing_surpasses():
    points = [(2, 9), (1, 5), (3, 9), (1, 4), (2, 8), (4, 10)]
    assert compare_report.front(points) == [(1, 5), (2, 9), (4, 10)]


def test_labels_of_neighbours_do_not_meet():
    """They are 10 pixels high and up to 110 long, at 60 degrees in a panel."""
    points = [(0.1, 0.1), (0.11, 0.12), (0.11, 0.9), (0.12, 0.1), (0.14, 0.2)]
    points += [(0.5, 0.1), (0.52, 0.06), (0.53, 0.15)]
    places = compare_report.apart(points)
    assert places[2][0] == pytest.approx(0.11) and places[5][0] == pytest.approx(0.5)
    slant = math.radians(60)
    corners = []
    for (x, y), (left, bottom) in zip(points, places):
        assert left >= x - 1e-9 and bottom > y
        x, y = 633 * left, 423 * bottom
        along = x * math.cos(slant) + y * math.sin(slant)
        corners.append((along, x * math.sin(slant) - y * math.cos(slant)))
    for one, two in combinations(corners, 2):
        assert abs(one[0] - two[0]) >= 110 or abs(one[1] - two[1]) >= 10
