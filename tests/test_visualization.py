"""Pictures of tested videos."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmaction.structures import ActionDataSample
from mmengine.dataset import DefaultSampler
from PIL import Image

from mmstop.registry import HOOKS
from mmstop.visualization import VideoVisualizationHook
from mmstop.visualization.drawing import NEUTRAL, RIGHT, WRONG, draw_strip

T = 6


def sample(truth=None, score=None, **meta) -> ActionDataSample:
    out = ActionDataSample(metainfo=meta)
    if truth is not None:
        out.set_gt_label(truth)
    if score is not None:
        out.set_pred_score(torch.tensor(score))
        out.set_pred_label(int(np.argmax(score)))
    return out


class Videos:
    metainfo = dict(classes=('one', 'two'))

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length


def runner(length: int = 100) -> SimpleNamespace:
    """Stand in for a runner, with batches of two."""
    loader = SimpleNamespace(batch_size=2, dataset=Videos(length), sampler=None)
    return SimpleNamespace(
        test_dataloader=loader, model=torch.nn.Identity(), log_dir='unused'
    )


def videos(count: int, size: int = 32) -> list[torch.Tensor]:
    """Make videos that turn red, (2, 3, T, H, W); the second clip is black."""
    out = torch.zeros(2, 3, T, size, size, dtype=torch.uint8)
    out[0, 0] = torch.linspace(100, 200, T).to(torch.uint8)[:, None, None]
    return [out] * count


def draw(tmp_path, samples, batch_idx=0, hook=None, size=32, **kwargs):
    hook = hook or VideoVisualizationHook(enable=True, out_dir=str(tmp_path))
    batch = dict(inputs=videos(len(samples), size))
    hook.after_test_iter(runner(**kwargs), batch_idx, batch, samples)
    return {p.name: np.asarray(Image.open(p)) for p in sorted(tmp_path.glob('*.png'))}


def test_colours_and_frames(tmp_path):
    right, wrong, unknown = draw(
        tmp_path,
        [sample(0, [0.9, 0.1]), sample(1, [0.9, 0.1]), sample(None, [0.9, 0.1])],
    ).values()
    for picture, colour in ((right, RIGHT), (wrong, WRONG), (unknown, NEUTRAL)):
        assert tuple(picture[0, 0]) == colour
        assert (picture[:60] == 255).any()  # something is written
    assert (right[:60] != wrong[:60]).any()
    frames = right[-1].reshape(T, -1, 3)  # a row of pixels, frame by frame
    assert (frames[..., 1:] == 0).all()  # red stays red, and the first clip is shown
    assert frames[:, 0, 0].tolist() == [100, 120, 140, 160, 180, 200]


def test_missing_label_of_a_list_is_no_label(tmp_path):
    (picture,) = draw(tmp_path, [sample(-1, [0.9, 0.1])]).values()
    assert tuple(picture[0, 0]) == NEUTRAL


@pytest.mark.parametrize('size', [32, 56, 224])
def test_frames_are_large_enough(size, tmp_path):
    (picture,) = draw(tmp_path, [sample(0, [0.9, 0.1])], size=size).values()
    assert 128 <= picture.shape[0] - 64 <= 256


def test_spread_of_frames(tmp_path):
    hook = VideoVisualizationHook(True, str(tmp_path), num_frames=3)
    (picture,) = draw(tmp_path, [sample(0, [0.9, 0.1])], hook=hook).values()
    assert picture[-1].reshape(3, -1, 3)[:, 0, 0].tolist() == [100, 140, 200]


def test_interval_counts_over_batches_and_stops_at_the_end(tmp_path):
    hook = VideoVisualizationHook(True, str(tmp_path), interval=3)
    for batch_idx in range(4):
        samples = [sample(0, [0.9, 0.1])] * 2
        names = draw(tmp_path, samples, batch_idx, hook, length=7)
    assert list(names) == ['000000.png', '000003.png', '000006.png']


def test_each_process_draws_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr('mmstop.visualization.hooks.get_world_size', lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr('mmstop.visualization.hooks.get_rank', lambda r=rank: r)
        names = draw(tmp_path, [sample(0, [0.9, 0.1])] * 2, 1, length=7)
    assert list(names) == ['000004.png', '000005.png', '000006.png']


def test_same_file_name_in_two_folders(tmp_path):
    names = draw(
        tmp_path,
        [sample(0, [0.9, 0.1], filename=f'{x}/v_1.avi') for x in ('a', 'b')],
    )
    assert list(names) == ['v_1_000000.png', 'v_1_000001.png']


def test_retrieval_is_drawn_under_its_captions(tmp_path):
    hook = VideoVisualizationHook(True, str(tmp_path))
    batch = dict(inputs=dict(imgs=videos(2), text=torch.zeros(2, 4)))
    retrieval = runner()
    dataset = retrieval.test_dataloader.dataset
    captions = ['a red wall', 'a wall', 'red', 'it reddens', 'more red']
    infos = [dict(text=captions, video_id='a.mp4'), dict(text=captions[:1])]
    dataset.get_data_info = infos.__getitem__
    retrieval.test_dataloader.sampler = DefaultSampler(dataset, shuffle=False)
    hook.after_test_iter(retrieval, 0, batch, [sample(), sample()])
    found = [Image.open(tmp_path / f'{n}.png') for n in ('a_000000', '000001')]
    frames = videos(1)[0][0].movedim(0, -1).numpy()
    lines = [[*captions[:3], 'and 2 more'], captions[:1]]
    for picture, header in zip(found, lines):
        expected = draw_strip(frames, header, NEUTRAL)
        assert (np.asarray(picture) == np.asarray(expected)).all()


def test_neither_labels_nor_captions(tmp_path):
    (picture,) = draw(tmp_path, [sample()]).values()
    frames = videos(1)[0][0].movedim(0, -1).numpy()
    assert (picture == np.asarray(draw_strip(frames, ['no labels'], NEUTRAL))).all()


def test_off_by_default(tmp_path):
    hook = HOOKS.build(dict(type='VideoVisualizationHook', out_dir=str(tmp_path)))
    assert not draw(tmp_path, [sample(0, [0.9, 0.1])], hook=hook)


def test_long_text_keeps_its_score(tmp_path):
    frames = np.zeros((1, 32, 32, 3), np.uint8)
    line = 'predicted: ' + 'something ' * 20
    pictures = [
        np.asarray(draw_strip(frames, [f'{line}{score} (wrong)'], WRONG))
        for score in (0.11, 0.99)
    ]
    assert (pictures[0] != pictures[1]).any()


def test_faulty_arguments():
    with pytest.raises(ValueError, match='interval=0, expected at least 1'):
        VideoVisualizationHook(interval=0)
    with pytest.raises(ValueError, match='num_frames=0, expected at least 1'):
        VideoVisualizationHook(num_frames=0)


def test_faulty_shape(tmp_path):
    hook = VideoVisualizationHook(True, str(tmp_path))
    batch = dict(inputs=[torch.zeros(3, 8, 8)])
    with pytest.raises(ValueError, match=r'shape \(3, 8, 8\), expected'):
        hook.after_test_iter(runner(), 0, batch, [sample(0)])
