"""The wheel, outside the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]

USE = """
import torch, mmstop
from mmstop.registry import MODELS
assert 'checkout' not in mmstop.__file__, mmstop.__file__
tower = dict(arch='ViT-moving-shapes', weights='mmstop')
head = MODELS.build(dict(type='CLIPTextHead', text=dict(type='CLIPText', **tower),
                         classes='moving_shapes', template='a video of a shape {}'))
stop = MODELS.build(dict(type='STOPCLIPViT', clip=dict(type='CLIPViT', **tower)))
print(tuple(head(stop(torch.zeros(1, 3, 2, 56, 56))).shape))
"""


def test_wheel_works_from_elsewhere(tmp_path):
    """Build it, unpack it beside the installed dependencies, and use what it brings."""
    build = [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation']
    subprocess.run([*build, '-q', '-w', tmp_path, ROOT], check=True)
    (wheel,) = tmp_path.glob('mmstop-*.whl')
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / 'site')
        metadata = archive.read(next(n for n in archive.namelist() if 'METADATA' in n))
        (scripts,) = (n for n in archive.namelist() if n.endswith('entry_points.txt'))
        assert b'mmstop = mmstop.cli:main' in archive.read(scripts)
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
