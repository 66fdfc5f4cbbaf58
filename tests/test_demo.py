"""The demo's screen: a line a step, and the log's end where a step fails."""

import importlib.util
import re

import pytest
from tiny_run import ROOT


@pytest.fixture
def demo(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location('demo', ROOT / 'tools' / 'demo.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, 'WORK', tmp_path)
    return module


def say(text):
    return ['-c', f'import sys; print({text!r}); print("warned", file=sys.stderr)']


def test_commands_of_a_step_log_into_files_of_their_own(demo, tmp_path, capfd):
    demo.run('2/6 Both', {'first': say('one'), 'second': say('two')})
    out, err = capfd.readouterr()
    assert re.fullmatch(r'2/6 Both +\d+ s\n', out) and not err
    for name, text in (('first', 'one'), ('second', 'two')):
        logged = (tmp_path / 'logs' / f'{name}.log').read_text()
        assert sorted(logged.split()) == [text, 'warned']


def test_failure_names_the_log_and_shows_its_end(demo, tmp_path, monkeypatch, capfd):
    lines = '; '.join(f'print({i})' for i in range(99))
    failing = ['-c', f'{lines}; raise ValueError("no disk")']
    with pytest.raises(demo.StepFailed) as failure:
        demo.run('1/6 Data', {'data': failing, 'other': say('one')})
    first, *shown = str(failure.value).splitlines()
    log = tmp_path / 'logs' / 'data.log'
    assert first == f'1/6 Data: failed with exit status 1; {log} ends with:'
    assert shown[-1] == '    ValueError: no disk' and len(shown) == 12
    monkeypatch.setattr('sys.argv', ['demo.py'])
    for error, said in ((failure.value, 'no disk'), (KeyboardInterrupt(), 'Interrup')):
        monkeypatch.setattr(demo, 'show', lambda fresh, error=error: raise_(error))
        with pytest.raises(SystemExit, match=said):
            demo.main()


def raise_(error):
    raise error


def test_terminal_shows_how_far_a_step_is(demo, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr('sys.stdout.isatty', lambda: True, raising=False)
    line = 'Epoch(train) [3][40/95]  lr: 1e-3  eta: 0:01:28'
    slow = f'import time; print({line!r}, flush=True); time.sleep(1)'
    demo.run('3/6 Training', {'train': ['-c', slow]})
    *shown, end = capsys.readouterr().out.split('\r')
    assert any(part.rstrip().endswith(' Epoch(train) [3][40/95]') for part in shown)
    assert re.fullmatch(r'3/6 Training +\d+ s +\n', end)
