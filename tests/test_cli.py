"""The command ``mmstop``."""

import gc
import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from tiny_run import COLOURS, environment, write_video

import mmstop_cli as cli
from mmstop.apis import VideoCLIP

CLIP = '--arch ViT-moving-shapes --weights mmstop --num-frames 2 --device cpu'.split()


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('videos')
    for name, colour in COLOURS.items():
        write_video(folder / f'{name}.mp4', colour)
    return folder


@pytest.fixture
def mmstop(capfd):
    """Run the command: its exit status, and what it printed on stdout and stderr."""

    def run(*argv):
        status = cli.main([str(argument) for argument in argv])
        return status, *capfd.readouterr()

    return run


def test_import_leaves_the_collector_running(monkeypatch):
    monkeypatch.delitem(sys.modules, 'mmstop')
    cli.import_mmstop()
    frozen = gc.get_freeze_count()
    gc.unfreeze()
    assert frozen and gc.isenabled()


@pytest.fixture(scope='module')
def index(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp('index') / 'three.index'
    assert cli.main(['embed', str(folder), '--out', str(path), *CLIP]) == 0
    return path


def test_classify(mmstop, folder):
    ask = ['classify', folder, *CLIP, '--template', 'a {} square', '--labels', *COLOURS]
    status, out, err = mmstop(*ask, '--topk', 1, '--json')
    assert status == 0 and err == ''
    clip = VideoCLIP.from_clip('ViT-moving-shapes', 'mmstop', 2, device='cpu')
    found = clip.classify(folder, list(COLOURS), 1, 'a {} square')
    assert json.loads(out) == [
        {
            'video': str(folder / f'{name}.mp4'),
            'predictions': [{'label': p.label, 'score': p.score}],
        }
        for name, (p,) in zip(sorted(COLOURS), found)
    ]
    status, out, err = mmstop(*ask)
    lines = out.splitlines()
    assert len(lines) == 9
    for line, (p,) in zip(lines[::3], found):
        assert line.split()[1:] == [f'{100 * p.score:.1f}', '%', p.label]


def test_unreadable_videos_are_reported(mmstop, folder, tmp_path):
    bad = tmp_path / 'bad.mp4'
    bad.write_text('no video')
    good = folder / 'red.mp4'
    ask = ['classify', bad, good, *CLIP, '--labels', 'a', 'b', '--json']
    status, out, err = mmstop(*ask)
    assert status == 0 and f'{bad} cannot be read: ' in err
    first, second = json.loads(out)
    assert first['video'] == str(bad) and first['error'] in err
    assert second['video'] == str(good) and len(second['predictions']) == 2
    status, out, err = mmstop('embed', bad, good, '--out', tmp_path / 'x', *CLIP)
    assert status == 0 and f'{bad} cannot be read: ' in err
    assert out.endswith('1 videos, 1 embedded now, 0 forgotten, 1 unreadable\n')


def test_names_are_printed_so_that_terminals_do_not_obey(mmstop, folder, tmp_path):
    bad = tmp_path / 'a\n\x1b[2J\u202eb.mp4'
    bad.write_text('no video')
    good = tmp_path / 'x\x1b[1m\ny.mp4'
    good.write_bytes((folder / 'red.mp4').read_bytes())
    not_utf8 = tmp_path / os.fsdecode(b'caf\xe9.mp4')
    not_utf8.write_bytes(good.read_bytes())
    ask = ['classify', bad, good, not_utf8, *CLIP, '--labels', 'a\x1bb']
    status, out, err = mmstop(*ask)
    assert status == 0 and (out + err).count('\n') == 3
    assert r'x\x1b[1m\ny.mp4' in out and r'a\x1bb' in out
    assert r'caf\udce9.mp4' in out + err  # which not every decoder opens
    assert r'a\n\x1b[2J\u202eb.mp4 cannot be read: it is not a video' in err
    _, _, err = mmstop('classify', tmp_path / 'no\x1b[2J', *CLIP)
    assert r'no\x1b[2J' in err and '\x1b' not in err + out


def test_embed_and_search(mmstop, folder, index):
    status, out, err = mmstop('embed', folder, '--out', index, *CLIP, '--json')
    assert (status, err) == (0, '')
    assert json.loads(out) == {
        'index': str(index),
        'videos': 3,
        'embedded': 0,
        'forgotten': 0,
        'errors': {},
    }
    ask = ['search', index, 'a blue square', *CLIP, '--topk', 2]
    _, out, _ = mmstop(*ask, '--json')
    hits = json.loads(out)
    assert [set(hit) for hit in hits] == [{'path', 'score'}] * 2
    assert hits[0]['path'] == str(folder / 'blue.mp4')
    assert hits[0]['score'] > hits[1]['score']
    _, out, _ = mmstop(*ask, '--exact')
    assert [line.split() for line in out.splitlines()] == [
        [f'{hit["score"]:.3f}', hit['path']] for hit in hits
    ]


def test_user_errors_are_one_line_and_status_2(mmstop, folder, index, tmp_path):
    def fails(match, *argv):
        status, out, err = mmstop(*argv)
        assert status == 2 and out == '' and err.count('\n') == 1
        assert err.startswith('error: ') and match in err

    video, labels = folder / 'red.mp4', ['--labels', 'a', 'b']
    fails("none.mp4' is neither", 'classify', tmp_path / 'none.mp4', *CLIP)
    fails('no classes of its own; give labels', 'classify', video, *CLIP)
    fails("none.py': there is no such", 'classify', video, '--config', 'none.py')
    two = ['--config', 'none.py', '--model', 'none']
    fails('--config and --model name two models', 'classify', video, *two)
    for content, fault in ((b'a = (', 'SyntaxError'), (b'\xff', 'UnicodeDecodeError')):
        (tmp_path / 'x.py').write_bytes(content)
        config = ['--config', tmp_path / 'x.py']
        fails(f"x.py' cannot be read: {fault}: ", 'classify', video, *config)
    checkpoint = ['--checkpoint', 'best.pth', *labels]
    fails('--checkpoint and --cfg-options need', 'classify', video, *checkpoint)
    fails('is not an architecture', 'search', index, 'x', '--arch', 'ViT-B-33')
    fails('is neither a file nor a tag', 'search', index, 'x', *CLIP, '--weights', 'x')
    fails('there is no such file', 'search', tmp_path / 'none', 'x', *CLIP)
    fails('was made by', 'search', index, 'x', *CLIP, '--num-frames', 3)
    fails('cannot be used here', 'search', index, 'x', *CLIP, '--device', 'cuda:99')
    fails("'meta' cannot be used", 'search', index, 'x', *CLIP, '--device', 'meta')
    ask = ['classify', video, *CLIP]
    fails("'a', which is empty or a duplicate", *ask, '--labels', 'a', 'b', 'a')
    fails("' ', which is empty or a duplicate", *ask, '--labels', 'a', ' ')
    for template in ('{} {}', '{}{', '{{}}', '{} and {x}'):
        fails('has braces other than', *ask, *labels, '--template', template)
    fails("'{x}' has no '{}'", *ask, *labels, '--template', '{x}')


@pytest.fixture
def copied(index, tmp_path):
    """An index of its own, to damage."""
    return Path(shutil.copytree(index, tmp_path / 'copied.index'))


@pytest.mark.parametrize('command', ['search', 'serve', 'embed'])
def test_faults_of_an_index_are_one_line(mmstop, folder, copied, monkeypatch, command):
    """Locked, not readable, not a database, damaged; whatever SQLite says."""
    rest = {'search': ['x'], 'serve': [], 'embed': ['--out', copied]}[command]
    argv = [command, folder if command == 'embed' else copied, *rest, *CLIP]

    def fails(match):
        status, out, err = mmstop(*argv)
        assert (status, out) == (2, '') and err.count('\n') == 1
        assert err.startswith('error: ') and match in err and str(copied) in err
        assert ('is not an index' in match) == ('is not an index' in err)

    faults = {
        'database is locked': 'another process has been writing to it',
        'disk I/O error': 'its disk fails or is full',
        'attempt to write a readonly database': 'check its permissions',
        'unable to open database file': 'check the permissions of its folder',
        'database or disk is full': 'free some space',
    }
    # What differs is told by the other two, which do not load the model first.
    for message, match in list(faults.items())[: 1 if command == 'embed' else None]:
        with monkeypatch.context() as patch:
            fault = sqlite3.OperationalError(message)

            def connect(*_, fault=fault, **__):
                raise fault

            patch.setattr(sqlite3, 'connect', connect)
            fails(match)
    (copied / 'videos.db').write_bytes(b'not a database' * 99)
    fails('is not an index written by mmstop embed')
    (copied / 'videos.db').write_bytes(b'')
    fails('has format 0, this version of mmstop reads 2')


@pytest.mark.parametrize('limit', [4096, 30_000])
def test_embed_on_a_full_disk(mmstop, folder, tmp_path, limit):
    """No file may be larger than the limit: rows, names or log are too large first."""
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        status = cli.main(['embed', str(folder), '--out', str(tmp_path / 'x'), *CLIP])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))
    assert status == 2
    _, out, err = mmstop('embed', folder, '--out', tmp_path / 'x', *CLIP)
    assert out.endswith('3 videos, 3 embedded now, 0 forgotten, 0 unreadable\n')
    assert err.count('\n') == 1 and 'start again, no batch is lost' in err
    assert [path.name for path in tmp_path.iterdir()] == ['x']


def test_wrong_usage(mmstop, capfd):
    for argv, match in (
        (['clasify'], 'invalid choice'),
        (['classify', 'a.mp4', '--topk', '0'], '0 is less than 1'),
        (['classify', 'a.mp4', '--labels', 'a', '--label-list', 'b'], 'not allowed'),
        (['export', 'x.py', '--out', 'x', '--cfg-options', 'a'], "VALUE, got ['a'] ("),
    ):
        with pytest.raises(SystemExit, match='2'):
            mmstop(*argv)
        assert match in capfd.readouterr().err


@pytest.mark.parametrize('name', cli.COMMANDS)
def test_help_tells_summary_and_examples(name, capfd):
    with pytest.raises(SystemExit, match='0'):
        cli.main(['--help'])
    summary = import_module(f'mmstop_cli.{name}').__doc__.splitlines()[0]
    out = capfd.readouterr().out
    assert ' '.join(summary.split()) in ' '.join(out.split())
    with pytest.raises(SystemExit, match='0'):
        cli.main([name, '--help'])
    assert f'    mmstop {name} ' in capfd.readouterr().out


def test_python_m_mmstop_prints_json_alone(folder):
    """In a process of its own, where loggers and decoders start afresh."""
    command = [sys.executable, '-m', 'mmstop', 'classify', folder / 'red.mp4', *CLIP]
    command += ['--labels', 'red', 'blue', '--json']
    done = subprocess.run(
        [str(part) for part in command],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    assert len(found['predictions']) == 2
