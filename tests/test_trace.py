"""Pictures of what STOP looked at and prompted show what it looked at and prompted."""

import argparse
import copy
import dataclasses
import io
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from matplotlib import colormaps
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from PIL import Image
from tiny import VIT, wild
from tiny_run import COLOURS, write_tiny_retrieval, write_tiny_run

from mmstop.compat import reader
from mmstop.errors import ConfigError
from mmstop.registry import HOOKS, MODELS
from mmstop.visualization import (
    TracedVideo,
    VideoTrace,
    cls_attention_map,
    plot_blocks,
    plot_overview,
    plot_trace,
    to_image,
    trace_blocks,
    trace_prediction,
    trace_video,
    write_trace_video,
)
from mmstop.visualization.drawing import (
    CHOSEN,
    NEUTRAL,
    OPACITY,
    RIGHT,
    heat_map,
    outline_patches,
)
from mmstop.visualization.film import write_video
from mmstop_cli import trace as command

N = 16  # patches of the tiny tower, 4 x 4 of 8 pixels
GREY = 120


def stop(**kwargs):
    torch.manual_seed(0)
    return MODELS.build(dict(type='STOPCLIPViT', **{'clip': VIT, **kwargs})).eval()


# --- Where the last CLS looks -------------------------------------------------------


def look(visual, tokens, patches, deep=None):
    """Run open_clip's own blocks on one sequence (L, D) and weigh its last patches."""
    *blocks, last = visual.transformer.resblocks
    if deep is None:
        deep = torch.zeros(len(blocks) + 1, 0, tokens.shape[1])
    for block, prompts in zip(blocks, deep):
        x = block(torch.cat([tokens[:1], prompts, tokens[1:]])[None])[0]
        tokens = torch.cat([x[:1], x[1 + len(prompts) :]])
    x = last.ln_1(torch.cat([tokens[:1], deep[-1], tokens[1:]]))
    D, heads = x.shape[1], last.attn.num_heads
    weights = 0
    for head in range(heads):
        rows = slice(head * D // heads, (head + 1) * D // heads)
        q, k = (
            (x @ w.T + b)[:, rows]
            for w, b in zip(
                last.attn.in_proj_weight.chunk(3)[:2],
                last.attn.in_proj_bias.chunk(3)[:2],
            )
        )
        weights += (q[0] @ k.T / (D // heads) ** 0.5).softmax(0) / heads
    return weights[-patches:] / weights[-patches:].mean()


@torch.no_grad()
@pytest.mark.parametrize('attention', ['joint', 'frame'])
@pytest.mark.parametrize('deep', [False, True], ids=['plain', 'deep prompts'])
def test_attention_of_stop_equals_a_slow_reference(attention, deep):
    clip = dict(type='DeepPromptCLIPViT', clip=VIT, num_prompts=3) if deep else VIT
    model = stop(clip=clip, attention=attention, depth=1)
    videos = wild(2, 4)
    videos[1, :, 2:] = videos[1, :, 1:2]  # fewer prompts than the other: a mask
    prompts = model.clip.prompts if deep else None
    visual = (model.clip.clip if deep else model.clip).visual
    found = cls_attention_map(model, videos)
    for video, maps in zip(videos, found):
        x, _ = model._prompt(0, model.embed(video[None]))
        gaps = [p[:n] for p, n in zip(x.prompts[0], x.num_prompts[0])]
        patches = x.patches[0]
        if attention == 'joint':
            tokens = torch.cat([x.cls[0, 0], *gaps, *patches])
            expected = look(visual, tokens, 4 * N, prompts).view(4, N)
        else:
            before = [patches[0, :0], *gaps]  # no gap before the first frame
            expected = torch.stack(
                [
                    look(visual, torch.cat(parts), N, prompts)
                    for parts in zip(x.cls[0], before, patches)
                ]
            )
        torch.testing.assert_close(maps, expected)
    assert (found.mean((1, 2)) - 1).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize('attention', ['joint', 'frame'])
def test_attention_with_prompts_at_every_block(attention):
    """The last CLS looks at the last block's prompts and prompted patches."""
    model, video = stop(attention=attention), wild(1, 4)
    (found,) = cls_attention_map(model, video)
    x, _ = model._prompt(2, model._before(2, video))
    gaps = [p[:n] for p, n in zip(x.prompts[0], x.num_prompts[0])]
    if attention == 'joint':
        sequences = [torch.cat([x.cls[0, 0], *gaps, *x.patches[0]])]
    else:
        gaps = [x.patches[0, 0, :0], *gaps]
        sequences = [torch.cat(parts) for parts in zip(x.cls[0], gaps, x.patches[0])]
    visual = copy.deepcopy(model.clip.visual)
    del visual.transformer.resblocks[:2]
    expected = [look(visual, tokens, 4 * N // len(sequences)) for tokens in sequences]
    torch.testing.assert_close(found.flatten(), torch.cat(expected))


@torch.no_grad()
def test_attention_of_other_towers_equals_a_slow_reference():
    deep = MODELS.build(dict(type='DeepPromptCLIPViT', clip=VIT))
    for tower, prompts in ((deep.clip, None), (deep, deep.prompts)):
        tokens = tower.embed(wild(1, 2))
        (found,) = cls_attention_map(tower, wild(1, 2))
        for maps, frame in zip(found, tokens[0]):
            expected = look(deep.clip.visual, frame, N, prompts)
            torch.testing.assert_close(maps, expected)


def test_attention_leaves_the_tower_as_it_was():
    model = stop()
    before = model(wild(1, 3))
    cls_attention_map(model, wild(1, 3))
    assert vars(model.clip).keys() == vars(stop().clip).keys()
    assert torch.equal(model(wild(1, 3)), before)


def test_merged_patches_have_no_attention():
    model = stop(clip=dict(VIT, merge=2))
    with pytest.raises(ValueError, match=r'\(merge=2\).*set merge=0 in .* CLIPViT'):
        cls_attention_map(model, wild(1, 2))


# --- Marks on frames ----------------------------------------------------------------


def example(T=3, seed=0) -> VideoTrace:
    generator = np.random.default_rng(seed)
    variation = generator.random(T - 1)
    return VideoTrace(
        frames=np.full((T, 32, 32, 3), GREY, np.uint8),
        region=generator.random((T, 4, 4)) < 0.4,
        saliency=generator.permutation(T * N).reshape(T, 4, 4) / (T * N),
        clip_attention=generator.random((T, 4, 4)) * 2,
        attention=generator.random((T, 4, 4)) * 4,
        variation=variation,
        num_prompts=np.ceil(12 * variation).astype(int),
    )


def cells(frames):
    """Cut frames (T, H, W, 3) into patches: (T, 4, 4, h, w, 3)."""
    T, H, W = frames.shape[:3]
    return frames.reshape(T, 4, H // 4, 4, W // 4, 3).swapaxes(2, 3)


def assert_outlined(frames, region, tolerance):
    """Only the patches of the region have a border of the outline's colour."""
    patches = cells(frames).astype(int)
    border = [patches[..., 1, 1:-1, :], patches[..., -2, 1:-1, :]]
    border += [patches[..., 1:-1, 1, :], patches[..., 1:-1, -2, :]]
    for side in border:
        away = np.abs(side - CHOSEN).mean((-2, -1))
        assert ((away <= tolerance) == region).all()
    height, width = patches.shape[3:5]
    centre = patches[..., height // 2, width // 2, :]
    assert (np.abs(centre - GREY) <= tolerance).all()


def assert_heat(frames, values, most, tolerance):
    """Read the values back from the colours."""
    patches = cells(frames).astype(float)
    height, width = patches.shape[3:5]
    colours = patches[..., height // 2, width // 2, :]
    colours = (colours - (1 - OPACITY) * GREY) / OPACITY
    scale = 255 * colormaps['viridis'](np.linspace(0, 1, 256))[:, :3]
    away = np.abs(colours[..., None, :] - scale).sum(-1)
    assert np.abs(away.argmin(-1) / 255 - values / most).max() <= tolerance


@pytest.mark.parametrize('size', [32, 224])
def test_outlines_and_heat_are_where_they_belong(size):
    trace = example()
    frames = np.full((3, size, size, 3), GREY, np.uint8)
    assert_outlined(outline_patches(frames, trace.region), trace.region, 0)
    heat = heat_map(frames, trace.saliency, trace.saliency.max())
    assert heat.shape == outline_patches(frames, trace.region).shape
    assert_heat(heat, trace.saliency, trace.saliency.max(), 0.01)
    assert (frames == GREY).all()


def frames_of(path):
    """Read a film that browsers play: (T, H, W, 3), RGB."""
    with av.open(str(path)) as file:
        context = file.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ('h264', 'yuv420p')
        return np.stack([frame.to_ndarray(format='rgb24') for frame in file.decode()])


def test_the_film_shows_every_frame_with_its_marks(tmp_path):
    trace = example(T=5)
    write_trace_video(tmp_path / 'film.mp4', trace)
    frames = frames_of(tmp_path / 'film.mp4')
    assert len(frames) == 5
    outlined, heat = np.split(frames, 2, axis=2)
    assert_outlined(outlined, trace.region, 40)  # mp4 blurs the colours
    assert_heat(heat, trace.saliency, trace.saliency.max(), 0.08)


def test_the_film_has_a_header_of_legible_lines(tmp_path):
    trace = example(T=2)
    lines = ['predicted: moving up 0.98', 'x' * 300]
    write_trace_video(tmp_path / 'plain.mp4', trace)
    write_trace_video(tmp_path / 'film.mp4', trace, header=lines, colour=RIGHT)
    plain, film = frames_of(tmp_path / 'plain.mp4'), frames_of(tmp_path / 'film.mp4')
    height = film.shape[1] - plain.shape[1]
    assert film.shape[2] == plain.shape[2] >= 640 and height == 2 * 28 + 8
    header = film[:, :height].astype(int)
    assert (np.abs(header - RIGHT) < 12).all(-1).mean() > 0.5
    white = (header > 225).all(-1)[0]
    assert 100 < white[: height // 2].sum() < white[height // 2 :].sum()
    assert not white[:, -8:].any()


def test_film_of_odd_frames(tmp_path):
    frames = np.full((3, 33, 35, 3), GREY, np.uint8)
    write_video(tmp_path / 'odd.mp4', frames, Fraction(2))
    assert frames_of(tmp_path / 'odd.mp4').shape == (3, 34, 36, 3)


def test_unwritable_film(tmp_path, monkeypatch):
    path, frames = tmp_path / 'nowhere' / 'film.mp4', np.zeros((1, 32, 32, 3), np.uint8)
    with pytest.raises(
        OSError, match=r"film.mp4': No such .*; is its folder there and"
    ):
        write_video(path, frames, Fraction(2))
    monkeypatch.setattr(av, 'codecs_available', set())
    with pytest.raises(ConfigError, match=r'no encoder libx264.* pip install .* av$'):
        write_video(tmp_path / 'film.mp4', frames, Fraction(2))
    with pytest.raises(ConfigError, match='no encoder libx264'):
        draw('clip.mp4', '--config', 'x', '--checkpoint', 'x', '--out', tmp_path / 'o')
    assert not list(tmp_path.iterdir())


# --- The figure ---------------------------------------------------------------------


def test_figure_shows_the_marks_pixel_by_pixel():
    trace = example()
    figure = plot_trace(trace, 'title')
    picture = to_image(figure)
    strips = []
    for axes in figure.axes:
        if axes.images:
            x0, y0, x1, y1 = axes.get_window_extent().extents.round().astype(int)
            strip = picture[len(picture) - y1 : len(picture) - y0, x0:x1]
            strips.append(np.stack(np.split(strip, 3, axis=1)))
    region, saliency, clip, attention = strips
    assert_outlined(region, trace.region, 3)
    assert_heat(saliency, trace.saliency, trace.saliency.max(), 0.01)
    most = trace.attention.max()  # of the two, which share a scale
    assert_heat(attention, trace.attention, most, 0.01)
    assert_heat(clip, trace.clip_attention, most, 0.01)


def test_figure_shows_counts_and_variation():
    trace = example(T=6)
    bars, curve = plot_trace(trace).axes[-2:]
    assert [bar.get_height() for bar in bars.patches] == trace.num_prompts.tolist()
    centres = [bar.get_x() + bar.get_width() / 2 for bar in bars.patches]
    assert centres == pytest.approx([1, 2, 3, 4, 5])  # the ends of the frames above
    assert bars.get_xlim() == (0, 6)
    (line,) = curve.lines
    assert (line.get_ydata() == trace.variation).all()
    assert [t.get_text() for t in bars.texts] == list(map(str, trace.num_prompts))


def test_figure_of_several_blocks():
    traces = [dataclasses.replace(example(T=6, seed=k), block=k) for k in (0, 2)]
    figure = plot_blocks(traces, 'title')
    strips, table = [axes for axes in figure.axes if axes.images], figure.axes[-1]
    assert len(strips) == 2
    for trace, axes in zip(traces, strips):
        assert axes.get_title(loc='left').startswith(f'Block {trace.block}: Saliency')
        (image,) = axes.images
        frames = np.stack(np.split(np.asarray(image.get_array()), 6, axis=1))
        expected = heat_map(trace.frames, trace.saliency, trace.saliency.max())
        assert (frames == outline_patches(expected, trace.region)).all()
    assert [t.get_text() for t in table.get_yticklabels()] == ['block 0', 'block 2']
    counts = np.concatenate([trace.num_prompts for trace in traces])
    assert [t.get_text() for t in table.texts] == list(map(str, counts))
    places = [t.get_position() for t in table.texts]
    assert places == [(gap, row) for row in (0, 1) for gap in (1, 2, 3, 4, 5)]
    image = dataclasses.replace(example(T=1), block=1)
    assert to_image(plot_blocks([image, image])).size


def test_figure_of_one_frame_and_of_a_model_without_prompts():
    trace = example(T=1)
    trace.saliency[:] = 0
    figure = plot_trace(trace)
    bars = figure.axes[-2]
    assert not bars.patches and not trace.variation.size
    assert to_image(figure).shape == tuple(
        round(100 * inches) for inches in figure.get_size_inches()[::-1]
    ) + (3,)


# --- Several videos on one screen ---------------------------------------------------


def boxes(figure):
    """Return the axes of each video: band, frames, attention, bars."""
    assert len(figure.axes) % 4 == 0
    return [figure.axes[i : i + 4] for i in range(0, len(figure.axes), 4)]


def test_overview_is_one_screen_that_marks_right_and_wrong():
    videos = [
        TracedVideo(example(T=6, seed=1), 'moving up', 0.984, 'moving up'),
        TracedVideo(example(T=6, seed=2), 'moving up', 0.5, 'standing still'),
        TracedVideo(example(T=6, seed=3), 'moving up', 0.5),
        TracedVideo(example(T=6, seed=4), 'x' * 300, 0.5, 'y' * 300),
    ]
    figure = plot_overview(videos, 'title')
    height, width = to_image(figure).shape[:2]
    assert width == 1600 and 800 <= height <= 1000
    bands = [box[0] for box in boxes(figure)]
    said = [[text.get_text() for text in band.texts] for band in bands]
    assert said[0] == ['✓ moving up  98%', '']
    assert said[1] == ['✗ moving up  50%', 'label: standing still']
    assert said[2] == ['moving up  50%', '']
    colours = [band.get_facecolor()[:3] for band in bands]
    assert colours[0][1] > colours[0][0] and colours[1][0] > colours[1][1]
    assert len({*colours}) == 3 and colours[1] == colours[3]
    for band in bands:  # no text leaves its band or covers the other
        box = band.get_window_extent()
        guess, label = (text.get_window_extent() for text in band.texts)
        assert box.x0 < guess.x0 and guess.x1 < label.x0 and label.x1 < box.x1


def test_overview_shows_what_was_prompted_and_looked_at():
    trace = example(T=6)
    ((_, frames, attention, bars),) = boxes(
        plot_overview([TracedVideo(trace, 'a', 1.0, 'a')], 'title')
    )
    shown = np.split(np.asarray(frames.images[0].get_array()), 6, axis=1)
    assert (np.stack(shown) == trace.frames).all()
    for outlines in frames.collections:
        corners = np.array([path.vertices[0] for path in outlines.get_paths()]) + 0.5
        column, row = (corners / 8).round().astype(int).T
        drawn = np.zeros_like(trace.region)
        drawn[column // 4, row, column % 4] = True
        assert (drawn == trace.region).all()
    shown = np.split(np.asarray(attention.images[0].get_array()), 6, axis=1)
    expected = heat_map(trace.frames, trace.attention, trace.attention.max())
    assert (np.stack(shown) == expected).all()
    counts = [bar.get_height() for bar in bars.patches]
    assert counts == trace.num_prompts.tolist()


def test_overview_of_long_clips_and_of_images():
    videos = [TracedVideo(example(T=17), 'a', 1.0, 'a')] * 2
    for _, frames, _, bars in boxes(plot_overview(videos, 'title')):
        assert frames.images[0].get_array().shape == (32, 8 * 32, 3)
        numbers = [label.get_text() for label in bars.get_xticklabels()]
        assert numbers[0] == 'frame 1' and numbers[-1] == 'frame 17'
        assert len(numbers) == 8 and len(bars.patches) == 16
    image = TracedVideo(example(T=1), 'a', 1.0)
    assert to_image(plot_overview([image] * 5, 'title')).shape[1] == 1600


def test_prediction_of_a_model_is_that_of_its_test(tested):
    dataset = tested.test_dataloader.dataset
    tested.model.eval()
    video = trace_prediction(tested.model, dataset[4])
    (result,) = tested.model.test_step(pseudo_collate([dataset[4]]))
    assert (video.guess, video.truth) == (
        list(COLOURS)[result.pred_label],
        'blue',
    )
    assert video.score == pytest.approx(result.pred_score.max().item())
    assert (video.trace.region == expected(tested, 4).region).all()
    unlabelled = dataset[4]
    unlabelled['data_samples'].set_gt_label(-1)
    assert trace_prediction(tested.model, unlabelled).truth is None
    with pytest.raises(
        ConfigError, match='a Linear predicts no classes; give .* recog'
    ):
        trace_prediction(torch.nn.Linear(1, 1), dataset[4])


# --- Of a model and a video ---------------------------------------------------------


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    return write_tiny_run(tmp_path_factory.mktemp('trace'))


def runner(path, work_dir, backends=('LocalVisBackend',)) -> Runner:
    cfg = Config.fromfile(path)
    cfg.work_dir = str(work_dir)
    cfg.default_hooks.trace = dict(type='TraceVisualizationHook', interval=2)
    cfg.visualizer = dict(
        type='ActionVisualizer', vis_backends=[dict(type=name) for name in backends]
    )
    # Another name than other tests' runners, which share their visualizer by name.
    cfg.experiment_name = work_dir.name
    return Runner.from_cfg(cfg)


def expected(run: Runner, index: int) -> VideoTrace:
    run.model.eval()
    return trace_video(run.model, run.test_dataloader.dataset[index])


@pytest.fixture(scope='module')
def tested(config, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('tested')
    run = runner(config, work_dir)
    run.test()
    return run


def test_trace_of_a_model_is_that_of_its_tower(tested):
    found = expected(tested, 3)
    batch = pseudo_collate([tested.test_dataloader.dataset[3]])
    video = tested.model.data_preprocessor(batch)['inputs'][:, 0]
    tower = tested.model.backbone
    trace = tower.trace(video)
    for name in ('region', 'saliency', 'variation', 'num_prompts'):
        given = getattr(trace, name)[0].numpy()
        assert (given == getattr(found, name).reshape(given.shape)).all()
    for maps, model in ((found.attention, tower), (found.clip_attention, tower.clip)):
        assert np.allclose(maps.reshape(4, N), cls_attention_map(model, video)[0])
    assert not np.allclose(found.attention, found.clip_attention, atol=1e-3)
    clip = batch['inputs'][0][0]  # (3, T, H, W)
    assert (found.frames == clip.permute(1, 2, 3, 0).numpy()).all()


def test_traces_of_several_blocks(tested):
    item, tower = tested.test_dataloader.dataset[3], tested.model.backbone
    batch = pseudo_collate([item])
    video = tested.model.data_preprocessor(batch)['inputs'][:, 0]
    found = trace_blocks(tested.model, item, [2, 0])
    assert [trace.block for trace in found] == [2, 0]
    for trace in found:
        given = tower.trace(video, trace.block)
        assert (trace.region.reshape(4, N) == given.region[0].numpy()).all()
        assert np.allclose(trace.saliency.reshape(4, N), given.saliency[0])
        assert np.allclose(trace.variation, given.variation[0])
        assert (trace.num_prompts == given.num_prompts[0].numpy()).all()
    assert not np.allclose(found[0].saliency, found[1].saliency)
    message = 'block 3 has no prompts of its own; .* for blocks 0 to 2'
    with pytest.raises(ConfigError, match=message):
        trace_blocks(tested.model, item, [0, 3])


def test_trace_of_a_retriever(tmp_path):
    run = runner(write_tiny_retrieval(tmp_path), tmp_path / 'retriever')
    run.test()
    drawn = read(*tmp_path.glob('retriever/*/vis_data/vis_image/trace_2.png'))
    picture = to_image(plot_trace(expected(run, 2), 'red_000002'))
    assert_same_below_the_title(drawn, picture)


def test_hook_draws_every_second_video_into_files(tested):
    files = sorted((Path(tested.log_dir) / 'vis_data' / 'vis_image').iterdir())
    assert [file.name for file in files] == [f'trace_{i}.png' for i in (0, 2, 4)]
    for index, file in zip((0, 2, 4), files):
        picture = to_image(plot_trace(expected(tested, index)))
        assert_same_below_the_title(read(file), picture)
        assert (read(file)[:30] < 100).any()  # the title


def test_hook_draws_into_tensorboard(config, tmp_path):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = runner(config, tmp_path / 'board', ['TensorboardVisBackend'])
    run.test()
    run.visualizer.close()
    (folder,) = {str(p.parent) for p in tmp_path.glob('board/**/events.out*')}
    board = EventAccumulator(folder, size_guidance={'images': 0})
    board.Reload()
    events = board.Images('trace')
    assert [event.step for event in events] == [0, 2, 4]
    for event in events:
        drawn = read(io.BytesIO(event.encoded_image_string))
        picture = to_image(plot_trace(expected(run, event.step)))
        assert_same_below_the_title(drawn, picture)


def read(file) -> np.ndarray:
    return np.asarray(Image.open(file))


def assert_same_below_the_title(drawn, picture):
    assert drawn.shape == picture.shape
    # Batches of one and of two round differently, by at most a shade.
    away = np.abs(drawn[30:].astype(int) - picture[30:])
    assert (away > 3).mean() < 1e-3


def test_hook_refuses_what_it_cannot_draw(config, tmp_path):
    with pytest.raises(ValueError, match='interval=0, expected at least 1'):
        HOOKS.build(dict(type='TraceVisualizationHook', interval=0))
    cfg = Config.fromfile(config)
    cfg.model.backbone = cfg.model.backbone.clip
    cfg.dump(tmp_path / 'clip.py')
    run = runner(tmp_path / 'clip.py', tmp_path / 'refused')
    with pytest.raises(ValueError, match='Recognizer3D is a CLIPViT, .*STOPCLIPViT'):
        run.test()


# --- The subcommand -----------------------------------------------------------------


@pytest.fixture(scope='module')
def checkpoint(tested, tmp_path_factory):
    path = tmp_path_factory.mktemp('checkpoint') / 'trained.pth'
    torch.save(dict(state_dict=tested.model.state_dict()), path)
    return path


def draw(*arguments):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    command.run(parser.parse_args(list(map(str, arguments))))


def test_command_draws_videos(config, tested, checkpoint, tmp_path):
    shutil.copy(config.parent / 'videos' / 'a' / 'blue.mp4', tmp_path / 'mine.mp4')
    out = tmp_path / 'new' / 'folder'
    model = ['--config', config, '--checkpoint', checkpoint]
    draw(tmp_path / 'mine.mp4', *model, '--out', out)
    trace = expected(tested, 4)  # a/blue.mp4
    video = trace_prediction(tested.model, tested.test_dataloader.dataset[4])
    prediction = f'predicted: {video.guess} {video.score:.2f}'
    picture = to_image(plot_trace(trace, f'mine, {prediction}'))
    assert (read(out / 'mine.png')[..., :3] == picture).all()
    write_trace_video(tmp_path / 'film.mp4', trace, header=[prediction])
    assert (out / 'mine.mp4').read_bytes() == (tmp_path / 'film.mp4').read_bytes()


def test_command_draws_several_blocks_together(config, tested, checkpoint, tmp_path):
    video = config.parent / 'videos' / 'a' / 'blue.mp4'
    model = ['--config', config, '--checkpoint', checkpoint, '--out', tmp_path]
    draw(video, *model, '--blocks', 0, 2)
    traces = trace_blocks(tested.model, tested.test_dataloader.dataset[4], [0, 2])
    picture = to_image(plot_blocks(traces, 'blue'))
    assert_same_below_the_title(read(tmp_path / 'blue.png')[..., :3], picture)
    film = frames_of(tmp_path / 'blue.mp4')
    header = 28 + 8  # above two blocks below each other, two pictures side by side
    assert film.shape[1] - header == film.shape[2]
    assert (np.abs(film[0, 1, 1].astype(int) - NEUTRAL) < 12).all()


def test_command_passes_over_what_it_cannot_read(config, checkpoint, tmp_path, capsys):
    bad, good = tmp_path / 'bad.mp4', config.parent / 'videos' / 'a' / 'blue.mp4'
    bad.touch()
    model = ['--config', config, '--checkpoint', checkpoint, '--out', tmp_path / 'out']
    draw(bad, good, *model)
    assert f'{bad} cannot be read: the file is empty' in capsys.readouterr().err
    assert {p.name for p in tmp_path.glob('out/*')} == {'blue.png', 'blue.mp4'}


def test_command_says_what_is_wrong(config, checkpoint, tmp_path):
    videos = config.parent / 'videos'
    model = ['--config', config, '--checkpoint', checkpoint, '--out', tmp_path / 'out']
    with pytest.raises(ConfigError, match="video 'none.mp4': there is no such file"):
        draw('none.mp4', *model)
    with pytest.raises(ConfigError, match="b/red.mp4': several are called 'red'"):
        draw(videos / 'b' / 'red.mp4', videos / 'a' / 'red.mp4', *model)
    state = reader.read(checkpoint)['state_dict']
    state = {name: x for name, x in state.items() if 'bank' not in name}
    torch.save(dict(state_dict=state), tmp_path / 'other.pth')
    model[3] = tmp_path / 'other.pth'
    message = 'other.pth does not fit the model of .*bank.weight'
    with pytest.raises(ConfigError, match=message):
        draw(videos / 'a' / 'red.mp4', *model)
    assert not list((tmp_path / 'out').glob('*'))
