"""The protocols of the literature as changes to a config, for compare.py.

docs/protocols.md describes them. A protocol says on which lists a config trains, for
how long, and on which lists and classes its checkpoint is tested. Lists come from
tools/data/make_shots.py and lie in a folder beside the data set's own. All else is the
config's: the rate, the optimizer, augmentations and sentences.
"""

import re
from collections.abc import Iterator, Sequence
from math import ceil
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Optional

from mmengine.config import Config

from mmstop.config_parts import walk
from mmstop.datasets import load_labels
from mmstop.errors import ConfigError

Options = tuple[str, ...]  # KEY=VALUE


class Schedule(NamedTuple):
    """How long to train, either in epochs or in steps."""

    batch: int
    epochs: int = 0
    steps: int = 0
    frames: Optional[int] = None  # None for the config's


# ViFi-CLIP's; a tenth of all epochs is warm-up.
SCHEDULES = {
    'few_shot': Schedule(batch=64, epochs=50, frames=32),
    'base_to_novel': Schedule(batch=64, epochs=11, frames=32),
}
SHAPES = Schedule(batch=16, steps=200)  # our own, for every K, and for minutes on a CPU
# On which data sets a model is tested that was trained on another.
ZERO_SHOT = {
    'k400': ('hmdb51', 'ucf101', 'k600_zero_shot'),
    'moving_shapes': ('shapes_distractors',),
}
OTHER_CLASSES = 'default_hooks.checkpoint.other_classes=True'
SPLITS = 1, 2, 3
SPLIT = re.compile(r'split(_?)1')  # in names of files: the first of three splits


class Plan(NamedTuple):
    """A training run and the tests of its checkpoint."""

    folder: str  # added to the name of the method's; '' for its usual run
    options: Options
    tests: dict[str, Options]


class Setting(NamedTuple):
    """What a plan depends on."""

    cfg: Config
    data_set: str
    seed: int
    trained: bool
    shots: Sequence[int]
    splits: Sequence[int]
    lists: str
    configs: Path

    def list_file(self, name: str) -> str:
        """Return a list's path as a data set's ``ann_file``."""
        own = self.cfg.test_dataloader.dataset.ann_file
        return str(PurePosixPath(own).parent / self.lists / name)

    def find(self, name: str) -> Path:
        """Return a list's path.

        Raises:
            ConfigError: there is no such file.
        """
        root = self.cfg.test_dataloader.dataset.get('data_root') or ''
        path = Path(root, self.list_file(name))
        if not path.is_file():
            raise ConfigError(
                f'{path}: there is no such list; make it with tools/data/make_shots.py '
                f'(docs/protocols.md), or use other --shots, --seeds or --lists'
            )
        return path


def plans(protocol: str, setting: Setting) -> Iterator[Plan]:
    """Yield the runs of a protocol with one seed.

    Raises:
        ConfigError: a list is missing, or the protocol does not fit the data set.
    """
    yield from PROTOCOLS[protocol](setting)


# --- The protocols ------------------------------------------------------------------


def full(setting: Setting) -> Iterator[Plan]:
    """Train on a whole split and test on the same one."""
    for n in setting.splits:
        options = () if n == 1 else split_options(setting.cfg, n)
        name = '' if n == 1 else f'split{n}'
        test = f'split {n}'
        yield Plan(name, options, {test: () if setting.trained else options})


def few_shot(setting: Setting) -> Iterator[Plan]:
    """Train on K videos of each class, and test on the data set's own test list."""
    if not setting.trained:
        yield Plan('', (), {'0 shots': ()})
        return
    for shots in setting.shots:
        name = f'few_shot_{shots}_{setting.seed}.txt'
        schedule = schedule_options(setting, 'few_shot', setting.find(name))
        options = (f'train_dataloader.dataset.ann_file={setting.list_file(name)}',)
        folder = f'{setting.lists}-few_shot-{shots}'
        yield Plan(folder, options + schedule, {f'{shots} shots': ()})


def base_to_novel(setting: Setting) -> Iterator[Plan]:
    """Train on 16 videos of each base class, and test base and novel classes apart."""
    tests = {}
    for half in ('base', 'novel'):
        setting.find(f'{half}_val.txt')
        tests[half] = (
            f'test_dataloader.dataset.ann_file={setting.list_file(f"{half}_val.txt")}',
            f'model.cls_head.classes={setting.find(f"{half}_classes.txt")}',
            OTHER_CLASSES,
        )
    folder = f'{setting.lists}-base_to_novel'
    if not setting.trained:
        yield Plan(folder, (), tests)
        return
    name = f'base_train_{setting.seed}.txt'
    schedule = schedule_options(setting, 'base_to_novel', setting.find(name))
    options = (
        *tests['base'],
        f'val_dataloader.dataset.ann_file={setting.list_file("base_val.txt")}',
        f'train_dataloader.dataset.ann_file={setting.list_file(name)}',
        *never_mirror(setting.cfg),
    )
    yield Plan(folder, options + schedule, tests)


def zero_shot(setting: Setting) -> Iterator[Plan]:
    """Train on the data set as usual, and test on all splits of others."""
    if setting.data_set not in ZERO_SHOT:
        raise ConfigError(
            f'{setting.data_set}: tools/analysis/protocols.py names no other data set '
            f'to test on, only for {", ".join(ZERO_SHOT)}'
        )
    tests = {}
    for target in ZERO_SHOT[setting.data_set]:
        path = setting.configs / '_base_' / 'datasets' / f'{target}.py'
        for name, options in target_options(target, Config.fromfile(path)):
            tests[name] = options
    yield Plan('', (), tests)


PROTOCOLS = {
    'full': full,
    'few_shot': few_shot,
    'base_to_novel': base_to_novel,
    'zero_shot': zero_shot,
}


# --- Options ------------------------------------------------------------------------


def split_options(cfg: Config, n: int) -> Options:
    """Let a config of split 1 use the lists of another split.

    Raises:
        ConfigError: its lists are not those of a split.
    """
    options = []
    for stage in ('train', 'val', 'test'):
        if cfg.get(f'{stage}_dataloader') is None:
            continue
        own = cfg[f'{stage}_dataloader'].dataset.ann_file
        if not SPLIT.search(own):
            raise ConfigError(
                f'--splits {n}: {own} does not belong to one of several splits'
            )
        options.append(f'{stage}_dataloader.dataset.ann_file={as_split(own, n)}')
    return tuple(options)


def as_split(name: str, n: int) -> str:
    return SPLIT.sub(rf'split\g<1>{n}', name)


def schedule_options(setting: Setting, protocol: str, path: Path) -> Options:
    """State a protocol's schedule for a training list.

    The only validation is at the end, so that no test list chooses the checkpoint.
    """
    shapes = 'shapes' in setting.data_set
    schedule = SHAPES if shapes else SCHEDULES[protocol]
    epochs = schedule.epochs
    if schedule.steps:
        per_epoch = ceil(len(load_labels(path)) / schedule.batch)
        epochs = max(1, round(schedule.steps / per_epoch))
    options = [
        f'train_dataloader.batch_size={schedule.batch}',
        f'train_cfg.max_epochs={epochs}',
        f'train_cfg.val_interval={epochs}',
        f'default_hooks.checkpoint.interval={max(1, epochs // 10)}',
        f'param_scheduler.0.end={epochs / 10}',
        f'param_scheduler.1.begin={epochs / 10}',
    ]
    if schedule.frames:
        options.append(f'num_frames={schedule.frames}')
        options += [  # of towers with parameters for each frame
            f'{part.path}.num_frames={schedule.frames}'
            for part in walk(setting.cfg)
            if part.path.startswith('model.') and 'num_frames' in part.node
        ]
    return tuple(options)


def never_mirror(cfg: Config) -> Options:
    """Turn off the flips that change labels, which count differently in each half.

    A mirrored video may also be one of a novel class.
    """
    return tuple(
        f'train_dataloader.dataset.pipeline.{i}.flip_ratio=0'
        for i, step in enumerate(cfg.train_dataloader.dataset.pipeline)
        if step.get('flip_label_map')
    )


def target_options(name: str, target: Any) -> Iterator[tuple[str, Options]]:
    """Yield the tests on a data set, one of each split, with its own classes.

    Args:
        target: its config, with ``test_dataloader`` and ``classes``.
    """
    dataset = target.test_dataloader.dataset
    several = SPLIT.search(dataset.ann_file)
    for n in SPLITS if several else SPLITS[:1]:
        values = {
            'test_dataloader.dataset.ann_file': as_split(dataset.ann_file, n),
            'test_dataloader.dataset.data_root': dataset.get('data_root') or '.',
            'test_dataloader.dataset.data_prefix.video': dataset.data_prefix.video,
            'model.cls_head.classes': as_split(target.classes, n),
        }
        options = *(f'{key}={value}' for key, value in values.items()), OTHER_CLASSES
        yield f'{name} split {n}' if several else name, options
