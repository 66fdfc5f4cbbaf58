"""The modules of a config's own, which lie in the working directory."""

import sys

import pytest
from tiny_run import ROOT

from mmstop.config import load_config
from mmstop.errors import ConfigError
from mmstop.registry import HOOKS

SSV2 = ROOT / 'configs' / 'stop_ssv2.py'
PLAIN = """
_base_ = {base!r}
custom_imports = dict(imports=['mmstop', {name!r}], allow_failed_imports=False)
"""
LAZY = """
from mmengine.config import read_base
from {name} import OwnHook
custom_hooks = [dict(type=OwnHook)]
"""
MODULE = """
from mmengine.hooks import Hook
from mmstop.registry import HOOKS

@HOOKS.register_module(name={name!r}, force=True)
class OwnHook(Hook):
    pass
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, where a script of another folder does not look."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', [path for path in sys.path if path])
    return tmp_path


@pytest.mark.parametrize('kind, name', [(PLAIN, 'own_plain'), (LAZY, 'own_lazy')])
def test_a_module_in_the_working_directory(kind, name, folder):
    (folder / f'{name}.py').write_text(MODULE.format(name=name))
    (folder / 'config.py').write_text(kind.format(base=str(SSV2), name=name))
    cfg = load_config('config.py')
    assert HOOKS.get(name) is sys.modules[name].OwnHook
    assert sys.path[-1] == str(folder)  # installed packages come first
    if kind == LAZY:
        assert cfg.custom_hooks[0].type is HOOKS.get(name)


@pytest.mark.parametrize('kind, name', [(PLAIN, 'no_plain'), (LAZY, 'no_lazy')])
@pytest.mark.parametrize('content', [None, 'import no_such_package'])
def test_a_module_that_is_missing_is_named(kind, name, content, folder):
    missing = name
    if content:
        name = missing.replace('no_', 'broken_')
        (folder / f'{name}.py').write_text(content)
        missing = 'no_such_package'
    (folder / 'config.py').write_text(kind.format(base=str(SSV2), name=name))
    message = rf"config 'config.py' imports what is not there: .*'{missing}'.*install"
    with pytest.raises(ConfigError, match=message) as caught:
        load_config('config.py')
    assert '\n' not in str(caught.value)
