"""Pictures of traces show what was chosen, and the ablation prints what it measured."""

import importlib.util
import json
import re
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle
from mmengine.config import Config
from PIL import Image
from tiny import VIT, still, wild
from tiny_run import ROOT, run, write_tiny_run

from mmstop.registry import MODELS
from mmstop.visualization import plot_trace

ANALYSIS = ROOT / 'tools' / 'analysis'


def load_tool(name):
    spec = importlib.util.spec_from_file_location(name, ANALYSIS / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize('video', [0, 1], ids=['wild', 'still'])
def test_picture_of_a_trace_shows_region_and_counts(video):
    torch.manual_seed(0)
    model = MODELS.build(dict(type='STOPCLIPViT', clip=VIT))
    trace = model.trace(torch.cat([wild(1, 5), still(1, 5)]))
    frames = np.zeros((5, 32, 32, 3), np.uint8)
    figure = plot_trace(frames, trace, video, 'title')
    strip, bars = figure.axes
    outlined = {
        (round((box.get_x() + 0.5) / 8), round((box.get_y() + 0.5) / 8))
        for box in strip.patches
        if isinstance(box, Rectangle)
    }
    chosen = {  # column and row on the strip of five 4 x 4 grids
        (4 * t + patch % 4, patch // 4)
        for t, patch in trace.region[video].nonzero().tolist()
    }
    assert outlined == chosen and len(chosen) == 30
    heights = [bar.get_height() for bar in bars.patches]
    assert heights == trace.num_prompts[video].tolist()
    plt.close(figure)


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    path = write_tiny_run(tmp_path_factory.mktemp('analysis'))
    cfg = Config.fromfile(path)
    cfg.default_hooks.checkpoint.update(save_best='acc/top1', rule='greater')
    cfg.dump(path)
    return path


def test_draw_trace_draws_the_frames_of_test_videos(config, tmp_path):
    one = ('--cfg-options', 'train_cfg.max_epochs=1')
    trained = run(sys.executable, ROOT / 'tools' / 'train.py', config, *one)
    assert trained.returncode == 0, trained.stderr
    checkpoint = config.parent / 'work' / 'epoch_1.pth'
    out = tmp_path / 'folder' / 'trace.png'
    load_tool('draw_trace').main(
        [str(config), str(checkpoint), '--out', str(out), '--num', '2']
    )
    picture = np.asarray(Image.open(out)).astype(int)
    red, green, blue = picture.reshape(-1, 3).T
    assert ((red > 150) & (green < 90) & (blue < 90)).sum() > 500, 'the red video'
    assert ((blue > 150) & (green < 90) & (red < 90)).sum() > 500, 'the blue video'


@pytest.mark.slow
def test_ablation_prints_what_it_measured(config, tmp_path, capsys):
    arguments = [str(config), '--seeds', '0', '1', '--work-dir', str(tmp_path)]
    ablation = load_tool('ablation')
    ablation.main([*arguments, '--rows', 'neither', 'temporal only'])
    first = capsys.readouterr().out
    results = [
        100 * json.loads(path.read_text())['acc/top1']
        for path in sorted(tmp_path.glob('*/temporal-only-seed*/result.json'))
    ]
    each = ', '.join(f'{value:.1f}' for value in results)
    assert re.search(rf'\| temporal only \| {sum(results) / 2:.1f} \| {each} \|', first)
    config.unlink()  # finished runs need nothing any more
    ablation.main([*arguments, '--rows', 'neither', 'temporal only'])
    assert capsys.readouterr().out == first
