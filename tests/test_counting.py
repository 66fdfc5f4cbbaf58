"""Parameters, confusions and sweeps are counted and drawn as they are."""

import csv
import json
import re

import confusion
import get_params
import mmengine
import numpy as np
import pytest
import sweep
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from mmaction.structures import ActionDataSample
from mmengine.config import Config
from own_configs import CONFIGS
from tiny_run import tiny_config, write_tiny_retrieval

from mmstop.classes import load_classes

# --- get_params ---------------------------------------------------------------------


def params(config, tmp_path, *options):
    out = tmp_path / 'new' / 'params.json'
    assert get_params.main([str(config), *options, '--json', str(out)]) == 0
    return json.loads(out.read_text())


@pytest.mark.parametrize(
    'name, trainable, modules',
    [
        ('stop_ssv2', 6_533_632, {'backbone.spatial', 'backbone.temporal'}),
        ('vpt_ucf101', 184_320, {'backbone.prompts'}),
        ('clip_msrvtt', 0, set()),
    ],
)
def test_parameters_of_a_config(name, trainable, modules, tmp_path, capsys):
    counts = params(CONFIGS[name], tmp_path)
    assert counts['trainable'] == trainable
    trained = {k for k, sizes in counts['modules'].items() if sizes['trainable']}
    assert trained == modules
    # ViT-B/32 of open_clip, both its towers
    assert counts['total'] - trainable == 151_277_313
    assert (
        sum(sizes['total'] for sizes in counts['modules'].values()) == counts['total']
    )
    # Nothing of what is frozen is saved.
    assert counts['checkpoint_mb'] == pytest.approx(4 * trainable / 1e6, abs=0.01)
    assert f'| all | {trainable:,} | {counts["total"]:,} |' in capsys.readouterr().out


def test_size_of_a_checkpoint_is_that_of_its_hook(tmp_path):
    config = tmp_path / 'tiny.py'
    Config(tiny_config(tmp_path)).dump(config)
    whole = ('--cfg-options', 'default_hooks.checkpoint.type=CheckpointHook')
    counts = params(config, tmp_path, *whole)
    assert counts['checkpoint_mb'] == pytest.approx(4 * counts['total'] / 1e6)


def test_weights_that_a_config_does_not_name_are_not_fetched(tmp_path):
    cfg = Config(tiny_config(tmp_path))
    cfg.model.backbone = dict(type='STOPCLIPViT')  # whose default is OpenAI's
    cfg.dump(tmp_path / 'default.py')
    sizes = params(tmp_path / 'default.py', tmp_path)['modules']
    assert sum(part['trainable'] for part in sizes.values()) == 6_533_632


def test_config_without_a_model_has_no_parameters(tmp_path, capsys):
    (tmp_path / 'none.py').write_text("work_dir = 'x'\n")
    assert get_params.main([str(tmp_path / 'none.py')]) == 2
    assert 'has no model to count' in capsys.readouterr().err


# --- confusion ----------------------------------------------------------------------


def dump(path, matrix):
    """Write predictions that a matrix (K, K) of counts sums up."""
    samples = []
    for (true, predicted), videos in np.ndenumerate(matrix):
        sample = ActionDataSample()
        sample.set_gt_label(true)
        sample.set_pred_score(torch.eye(len(matrix))[predicted])
        samples += [sample.to_dict()] * videos
    mmengine.dump(samples, path)
    return str(path)


def test_confusion_tells_the_worst_class_and_pairs(tmp_path, capsys):
    config = tmp_path / 'tiny.py'
    Config(tiny_config(tmp_path)).dump(config)
    pkl = dump(tmp_path / 'p.pkl', np.array([[3, 0, 0], [4, 1, 3], [0, 0, 0]]))
    out = tmp_path / 'new' / 'folder'
    assert confusion.main([str(config), pkl, '--out-dir', str(out)]) == 0
    assert list(csv.reader((out / 'per_class.csv').open())) == [
        ['class', 'label', 'videos', 'correct', 'accuracy', 'mostly_taken_for'],
        ['green', '1', '8', '1', '12.50', 'red'],
        ['red', '0', '3', '3', '100.00', ''],
        ['blue', '2', '0', '0', '', ''],
    ]
    rows = [line for line in capsys.readouterr().out.splitlines() if '%' in line]
    assert rows == ['| green | red | 4 | 50.0 % |', '| green | blue | 3 | 37.5 % |']
    assert (out / 'confusion.png').stat().st_size > 10_000


@pytest.mark.parametrize('classes', ['moving_shapes', 'ssv2'])
def test_labels_of_a_confusion_matrix_can_be_read(classes):
    names = load_classes(classes)
    figure = confusion.plot(np.eye(len(names), dtype=int), names)
    figure.dpi = 150
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    axes = figure.axes[0]
    for labels, side in ((axes.get_xticklabels(), 0), (axes.get_yticklabels(), 1)):
        assert [label.get_text() for label in labels] == names
        boxes = [label.get_window_extent(canvas.get_renderer()) for label in labels]
        boxes.sort(key=lambda box: box.min[side])
        for box, following in zip(boxes, boxes[1:]):
            assert box.max[side] < following.min[side], 'labels overlap'
        assert min(box.size[side] for box in boxes) > 9, 'letters of few pixels'
        assert min(box.min.min() for box in boxes) >= 0, 'labels are cut'


def test_confusion_refuses_what_does_not_fit(tmp_path, capsys):
    config = tmp_path / 'tiny.py'
    Config(tiny_config(tmp_path)).dump(config)
    mmengine.dump([{'features': 1}], tmp_path / 'features.pkl')
    (tmp_path / 'text.pkl').write_text('no pickle')
    faults = {
        tmp_path / 'none.pkl': 'there is no such file',
        tmp_path / 'features.pkl': 'holds no predictions',
        tmp_path / 'text.pkl': 'holds no predictions',
        dump(tmp_path / 'empty.pkl', np.zeros((2, 2), int)): 'holds no single labels',
        dump(tmp_path / 'two.pkl', np.eye(2, dtype=int)): 'have 2 classes, .* has 3',
    }
    for path, message in faults.items():
        assert confusion.main([str(config), str(path)]) == 2
        assert re.search(f'^error: .*{message}', capsys.readouterr().err)


# --- sweep --------------------------------------------------------------------------


def test_sweep_sums_up_finished_runs(tmp_path, capsys):
    config, work_dir = tmp_path / 'tiny.py', tmp_path / 'runs'
    Config(tiny_config(tmp_path)).dump(config)
    alpha, loader = 'model.backbone.alpha', 'train_dataloader.sampler.type'
    figures = {
        (alpha, '0.8'): (0.5, 0.7),
        (alpha, '0'): (0.1, 0.3),
        (loader, 'a/b'): (0.0, 1.0),
    }
    for (key, value), seeds in figures.items():
        for seed, figure in enumerate(seeds):
            run = work_dir / 'tiny' / f'{sweep.folder_of(f"{key}={value}")}-seed{seed}'
            run.mkdir(parents=True)
            (run / 'result.json').write_text(json.dumps({'acc/top1': figure}))
    arguments = [str(config), '--seeds', '0', '1', '--work-dir', str(work_dir)]
    arguments += ['--vary', alpha, '0.8', '0', '--vary', loader, 'a/b']
    assert sweep.main(arguments) == 0
    with (work_dir / 'tiny' / 'sweep.csv').open() as file:
        header, *rows = csv.reader(file)
    assert header == ['option', 'value', 'seed', 'acc/top1']
    assert [(k, v, int(s), float(f)) for k, v, s, f in rows] == [
        (key, value, seed, 100 * figure)
        for (key, value), seeds in figures.items()
        for seed, figure in enumerate(seeds)
    ]
    printed = capsys.readouterr().out
    assert f'| {alpha}=0.8 | 60.0 | 50.0 to 70.0 |' in printed
    assert f'| {loader}=a/b | 50.0 | 0.0 to 100.0 |' in printed
    assert (work_dir / 'tiny' / 'sweep.png').stat().st_size > 5_000
    assert sweep.main([*arguments, '--metric', 'acc/top2']) == 2
    assert re.search(
        '--metric acc/top2: .*result.json has acc/top1', capsys.readouterr().err
    )


def test_sweep_draws_mean_and_range():
    results = {'a': {'4': [1.0, 3.0], '2': [5.0, 9.0]}, 'b': {'x': [2.0, 2.0]}}
    numbers, words = sweep.plot(results, 'm').axes
    line, _, (bars,) = numbers.containers[0]
    assert line.get_xydata().tolist() == [[2, 7], [4, 2]]
    assert [s.tolist() for s in bars.get_segments()] == [
        [[2, 5], [2, 9]],
        [[4, 1], [4, 3]],
    ]
    assert [label.get_text() for label in words.get_xticklabels()] == ['x']


@pytest.mark.parametrize(
    'vary, message',
    [
        (['model.backbone.alhpa', '0'], "has no 'alhpa'; did you mean 'alpha'"),
        (['model.backbone.alpha'], 'give its values'),
        (['model.backbone.alpha', '0', '0'], 'given twice'),
        (['model.backbone.alpha', '0', '--jobs', '0'], '--jobs 0: it must be'),
    ],
)
def test_sweep_refuses_before_the_first_run(vary, message, tmp_path, capsys):
    config, runs = tmp_path / 'tiny.py', tmp_path / 'runs'
    Config(tiny_config(tmp_path)).dump(config)
    arguments = [str(config), '--work-dir', str(runs), '--vary', *vary]
    assert sweep.main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not runs.exists()


@pytest.mark.slow
def test_sweep_of_a_retrieval_config_starts_again_where_it_was(tmp_path, runs):
    config = write_tiny_retrieval(tmp_path)
    arguments = [str(config), '--metric', 'retrieval/t2v/MnR', '--seeds', '0']
    arguments += ['--work-dir', str(tmp_path / 'w'), '--vary']
    arguments += ['model.backbone.num_spatial', '1']
    assert sweep.main(arguments) == 0
    (result,) = tmp_path.glob('w/**/result.json')
    figure = json.loads(result.read_text())['retrieval/t2v/MnR']
    assert sweep.main([*arguments, '4']) == 0
    assert runs == ['train.py', 'test.py'] * 2
    with (tmp_path / 'w' / 'retrieval' / 'sweep.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [row['value'] for row in rows] == ['1', '4']
    assert float(rows[0]['retrieval/t2v/MnR']) == pytest.approx(figure, abs=1e-3)
