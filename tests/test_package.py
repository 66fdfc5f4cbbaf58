"""The wheel, outside the checkout; and what its modules import."""

import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from modelindex.load_model_index import load as load_model_index
from own_configs import CONFIGS

ROOT = Path(__file__).parents[1]

USE = """
import sys, torch, mmstop
assert not {'matplotlib', 'streamlit', 'decord'} & {*sys.modules}, 'not used yet'
from mmstop.registry import MODELS
assert 'checkout' not in mmstop.__file__, mmstop.__file__
tower = dict(arch='ViT-moving-shapes', weights='mmstop')
head = MODELS.build(dict(type='CLIPTextHead', text=dict(type='CLIPText', **tower),
                         classes='moving_shapes', template='a video of a shape {}'))
stop = MODELS.build(dict(type='STOPCLIPViT', clip=dict(type='CLIPViT', **tower)))
print(tuple(head(stop(torch.zeros(1, 3, 2, 56, 56))).shape))
"""

HELP = """
import sys
from mmstop_cli import main
for argv in (['--help'], ['search', '--help']):
    try:
        main(argv)
    except SystemExit as end:
        assert not end.code
assert not {'torch', 'mmengine', 'mmstop'} & {*sys.modules}
"""

# The rooms of the package from the ground up; a room imports what is below it. Models
# and data stand side by side.
MODELS = 'towers methods models'.split()
DATA = 'datasets evaluation'.split()
GROUND = 'version errors text registry compat architectures classes'.split()
CONFIG_FILES = 'config_parts config_settings config config_lists config_check'.split()
TOP = 'engine visualization apis serving'.split()
ROOMS = [*GROUND, *DATA, *MODELS, *CONFIG_FILES, *TOP]

# As `mim train mmstop` and `mim search mmstop` find them.
TRAIN = 'site/mmstop/.mim/tools/train.py'
INDEX = 'site/mmstop/.mim/model-index.yml'
CONFIG = 'site/mmstop/.mim/configs/stop_moving_shapes.py'


@pytest.mark.slow
def test_wheel_works_from_elsewhere(tmp_path):
    """Build it, unpack it beside the installed dependencies, and use what it brings."""
    build = [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation']
    subprocess.run([*build, '-q', '-w', tmp_path, ROOT], check=True)
    (wheel,) = tmp_path.glob('mmstop-*.whl')
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / 'site')
        metadata = archive.read(next(n for n in archive.namelist() if 'METADATA' in n))
        (scripts,) = (n for n in archive.namelist() if n.endswith('entry_points.txt'))
        assert b'mmstop = mmstop_cli:main' in archive.read(scripts)
        assert 'mmstop_cli/search.py' in archive.namelist()
    assert not any(
        line.startswith('Requires-Dist: mmcv') and 'extra' not in line
        for line in metadata.decode().splitlines()
    ), 'mmcv or mmcv-lite is for the user to choose'
    environment = {**os.environ, 'PYTHONPATH': str(tmp_path / 'site')}
    out = subprocess.run(
        [sys.executable, '-c', USE],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert out.stdout.splitlines()[-1:] == ['(1, 9)'], out.stderr
    check_what_mim_finds(tmp_path, environment)


def test_help_imports_no_torch():
    out = subprocess.run(
        [sys.executable, '-c', HELP], cwd=ROOT, capture_output=True, text=True
    )
    assert out.returncode == 0 and 'usage: mmstop search' in out.stdout, out.stderr


def imported(path):
    """Yield the modules of the package that a file imports, by their full names."""
    package = ['mmstop', *path.relative_to(ROOT / 'mmstop').parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = '.'.join([*base, *([node.module] if node.module else [])])
            yield from (f'{module}.{alias.name}' for alias in node.names)


def test_no_room_imports_what_stands_above_it():
    for path in (ROOT / 'mmstop').rglob('*.py'):
        room = path.relative_to(ROOT / 'mmstop').parts[0].removesuffix('.py')
        if room in ('__init__', '__main__', '.mim'):
            continue
        for name in imported(path):
            other = [*name.split('.'), ''][1]
            if name.startswith('mmstop') and other != room:
                assert ROOMS.index(other) < ROOMS.index(room), f'{path}: {name}'
                assert not (room in MODELS and other in DATA), f'{path}: {name}'


def test_a_checkout_does_not_hide_its_package():
    """Or else ``import mmstop`` in the folder above finds the folder instead."""
    pages = [ROOT / 'README.md', ROOT / 'Makefile', *ROOT.glob('docs/*.md')]
    installs = [
        line
        for page in pages
        for line in page.read_text().replace('\\\n', '').splitlines()
        if 'pip install -e' in line or '--editable' in line
    ]
    assert len(installs) >= 5
    assert all('--config-settings editable_mode=compat' in line for line in installs)


def check_what_mim_finds(tmp_path, environment):
    """Every config, the tools, and an index that names exactly the configs."""
    installed = tmp_path / INDEX.rpartition('/')[0]
    for folder, kinds in (('configs', '*.py'), ('tools', '*.[ps][yh]')):
        expected = {path.relative_to(ROOT) for path in (ROOT / folder).rglob(kinds)}
        found = installed.joinpath(folder).rglob(kinds)
        assert {path.relative_to(installed) for path in found} == expected
    models = load_model_index(str(tmp_path / INDEX)).models
    configs = {path.relative_to(ROOT) for path in CONFIGS.values()}
    assert {Path(model.config) for model in models} == configs
    train = subprocess.run(
        [sys.executable, TRAIN, CONFIG],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert 'data/moving_shapes' in train.stderr, (
        train.stderr
    )  # all but the data is there
