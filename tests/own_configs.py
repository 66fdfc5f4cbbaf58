"""The configs of this repository: STOP's beside each other, a folder for each other."""

import copy
import functools
import re
from pathlib import Path

from mmengine.config import Config

ROOT = Path(__file__).parents[1]
CONFIGS = {
    path.stem: path
    for path in sorted((ROOT / 'configs').rglob('*.py'))
    if '_base_' not in path.parts
}

# One of each task for every method, which tests/test_configs.py compares with the
# others, and all of STOP's. Of those with its authors' settings, which differ in the
# data set only, it has one.
ONE_EACH = [
    name
    for name in CONFIGS
    if re.search(r'^stop_(?!.*_authors$)|_(hmdb51|msrvtt|msrvtt_authors)$', name)
]


def read(name: str) -> Config:
    """Return a copy of a config, which a process parses only once."""
    return copy.deepcopy(_parse(name))


@functools.cache
def _parse(name: str) -> Config:
    return Config.fromfile(CONFIGS[name])
