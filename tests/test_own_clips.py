"""Lists of your own clips, and the page that leads from clips to answers."""

import glob
import json
import os
import re
import shlex
import shutil
from pathlib import Path

import drawing
import pytest
from pages import ROOT, code_of, commands_of
from test_converters import load_script
from test_tools import test, train
from tiny_run import COLOURS, write_video

import mmstop_cli as cli
from mmstop.datasets import load_captions, load_classes, load_labels

load_script('own_clips')
make_lists = load_script('make_lists')
moving_shapes = load_script('moving_shapes')


# --- The tool -----------------------------------------------------------------------


@pytest.fixture(scope='module')
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp('clip') / 'clip.mp4'
    write_video(path, COLOURS['red'])
    return path


@pytest.fixture
def lay(clip, tmp_path):
    """Lay clips in folders. They differ in a few bytes after the video."""

    def lay(*names: str) -> Path:
        for i, name in enumerate(names):
            path = tmp_path / 'mine' / name
            path.parent.mkdir(parents=True, exist_ok=True)
            free = (9).to_bytes(4, 'big') + b'free' + bytes([i])  # an MP4 box to skip
            path.write_bytes(clip.read_bytes() + free)
        return tmp_path / 'mine'

    return lay


def make(folder: Path, *options: object) -> int:
    return make_lists.main([str(folder), '--workers', '1', *map(str, options)])


CLASSES = ('Opening a door', 'brush_hair', 'take 2, slow')
NAMES = [f'{name}/clip {i}.mp4' for name in CLASSES for i in range(5)]


def test_lists_are_those_that_the_data_set_and_the_head_read(lay, capsys):
    folder = lay(*NAMES)
    (folder / 'notes.txt').write_text('not a clip')
    assert make(folder) == 0
    assert load_classes(str(folder / 'classes.txt')) == [
        'opening a door',
        'brush hair',
        'take 2, slow',
    ]
    train, val = (load_labels(folder / f'{part}.txt') for part in ('train', 'val'))
    assert sorted(x.filename for x in train + val) == sorted(NAMES)
    assert [x.label for x in train] == 4 * [0] + 4 * [1] + 4 * [2]
    assert [x.label for x in val] == [0, 1, 2]
    for x in train + val:
        assert x.filename.startswith(f'{CLASSES[x.label]}/')
    out = capsys.readouterr().out
    assert f'{folder}/train.txt: 12 videos, 4 or more of a class' in out
    assert f'{folder}/classes.txt: 3 classes' in out


def test_split_depends_on_the_seed_and_the_names_alone(lay, tmp_path):
    folder = lay(*NAMES)

    def val(*options) -> set[str]:
        out = tmp_path / ' '.join(options)
        assert make(folder, '--out', out, '--val', '0.4', *options) == 0
        return {x.filename for x in load_labels(out / 'val.txt')}

    first = val()
    assert len(first) == 6
    assert val('--seed', '0') == first
    assert any(val('--seed', str(seed)) != first for seed in (1, 2, 3))


def test_unusable_clips_are_left_out_and_reported(lay, capsys):
    folder = lay(*NAMES, 'brush_hair/cut.mp4', 'brush_hair/text.mp4')
    cut = folder / 'brush_hair' / 'cut.mp4'
    cut.write_bytes(cut.read_bytes()[:500])
    (folder / 'brush_hair' / 'text.mp4').write_text('no video')
    shutil.copy(folder / NAMES[5], folder / 'brush_hair' / 'copy.mp4')
    (folder / 'waving').mkdir()
    assert make(folder) == 1
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith('left')]
    assert lines[0].startswith('left out  brush_hair/cut.mp4: ')
    assert lines[1].startswith('left out  brush_hair/text.mp4: ')
    assert lines[2:] == [
        'left out  brush_hair/copy.mp4: it has the content of brush_hair/clip 0.mp4',
        'left out  waving/: a folder without a clip',
    ]
    listed = (folder / 'train.txt').read_text() + (folder / 'val.txt').read_text()
    assert listed.count('\n') == len(NAMES)


def test_folders_named_after_splits_are_the_splits(lay):
    names = ('train/a/1.mp4', 'train/b/1.mp4', 'val/a/2.mp4', 'val/b/2.mp4')
    folder = lay(*names, 'test/b/3.mp4')
    assert make(folder) == 0
    assert (folder / 'train.txt').read_text() == 'train/a/1.mp4 0\ntrain/b/1.mp4 1\n'
    assert (folder / 'val.txt').read_text() == 'val/a/2.mp4 0\nval/b/2.mp4 1\n'
    assert (folder / 'test.txt').read_text() == 'test/b/3.mp4 1\n'
    assert (folder / 'classes.txt').read_text() == 'a\nb\n'


def test_other_lists_are_never_written_over(lay, capsys):
    folder = lay(*NAMES)
    assert make(folder) == 0
    before = {path: path.read_text() for path in folder.glob('*.txt')}
    assert make(folder) == 0, 'the same lists again'
    assert make(folder, '--val', '0.5') == 2
    assert 'train.txt: exists and differs from what would be' in capsys.readouterr().err
    assert {path: path.read_text() for path in folder.glob('*.txt')} == before
    assert make(folder, '--val', '0.5', '--out', folder / 'half') == 0


COPY = ('a/1.mp4', 'b/2.mp4', 'a/3.mp4', 'b/4.mp4')
REFUSED = {
    'no folder': ((), 'there is no such folder'),
    'no clip': (('a/notes.txt',), 'is a folder without a video'),
    'no class': (('a/1.mp4', '2.mp4'), r'2\.mp4 is in no folder of a class; move it'),
    'few clips': ((*COPY, 'c/1.mp4'), "class 'c' has too few usable clips, 1; expect"),
    'same words': (
        ('A b/1.mp4', 'A b/2.mp4', 'a_b/1.mp4', 'a_b/2.mp4'),
        "labels 0 and 1 are both 'a b'",
    ),
    'like ids': (
        [f'{i} c{i}/{j}.mp4' for i in (2, 1, 0) for j in (0, 1)],
        'look like ids and names; rename the folders',
    ),
    'blank': (('a/1.mp4', ' a/2.mp4'), "' a/2.mp4' begins or ends with a blank, has"),
    'not UTF-8': ((os.fsdecode(b'a/\xff.mp4'),), 'not UTF-8, so no list can name it'),
    'only test': (
        ('train/a/1.mp4', 'test/a/2.mp4'),
        'the folders test and train, expected train and val; add val, or rename the',
    ),
    'not in train': (
        ('train/a/1.mp4', 'val/a/1.mp4', 'val/b/1.mp4'),
        "class 'b' has no usable clip in train; add one",
    ),
}


@pytest.mark.parametrize('case', REFUSED)
def test_fault_is_one_line_and_nothing_is_written(case, lay, tmp_path, capsys):
    names, message = REFUSED[case]
    lay(*names)
    assert make(tmp_path / 'mine') == 2
    lines = re.split(r'[\r\n]+', capsys.readouterr().err.strip())  # tqdm's as well
    (fault,) = [line for line in lines if line.startswith('error: ')]
    assert lines[-1] == fault
    assert re.search(message, fault)
    assert not {path.name for path in tmp_path.rglob('*.txt')} - {'notes.txt'}


def test_clips_with_the_same_content_are_of_one_class_and_split(lay, capsys):
    folder = lay(*COPY)
    shutil.copy(folder / 'a/1.mp4', folder / 'b/5.mp4')
    assert make(folder) == 2
    fault = "'a/1.mp4' and 'b/5.mp4' have the same content but another class or split"
    assert fault in capsys.readouterr().err


def test_wrong_usage_is_refused(tmp_path, capsys):
    for option, value, fault in (
        ('--val', '1', '--val 1: it is more than 0 and less than 1'),
        ('--workers', '0', '--workers 0: it is at least 1'),
    ):
        with pytest.raises(SystemExit):
            make(tmp_path, option, value)
        assert fault in capsys.readouterr().err


# --- Captions -----------------------------------------------------------------------

CAPTIONS = {f'{i}.mp4': [f'video {i}', f'the same,  "{i}"'] for i in range(5)}
CLEAN = {name: [' '.join(text.split()) for text in x] for name, x in CAPTIONS.items()}
ROWS = [(name, text) for name, texts in CAPTIONS.items() for text in texts]
FORMS = {
    'csv': 'frames,caption,video\n'
    + ''.join(f'8,"{c.replace(chr(34), chr(34) * 2)}",{v[:-4]}\n' for v, c in ROWS),
    'lists.json': json.dumps(CAPTIONS),
    'records.json': json.dumps([{'video': v, 'caption': c} for v, c in ROWS]),
}


@pytest.mark.parametrize('form', FORMS)
def test_captions_take_the_form_of_retrieval(form, lay, tmp_path):
    folder = lay(*CAPTIONS, 'without a caption.mp4')
    path = tmp_path / f'captions.{form}'
    path.write_text(FORMS[form])
    assert make(folder, '--captions', path, '--val', '0.4') == 0
    train, val = (load_captions(folder / f'{part}.json') for part in ('train', 'val'))
    assert len(train) == 3 and len(val) == 2
    assert train | val == CLEAN


def test_one_caption_a_video_and_videos_that_are_missing(lay, tmp_path, capsys):
    folder = lay('train/a.mp4', 'val/b.mp4')
    path = tmp_path / 'captions.json'
    path.write_text('{"train/a.mp4": "one", "val/b": "two", "val/c": "three"}')
    assert make(folder, '--captions', path) == 1
    assert (
        f'left out  val/c: there is no such clip in {folder}' in capsys.readouterr()[0]
    )
    assert load_captions(folder / 'train.json') == {'train/a.mp4': ['one']}
    assert load_captions(folder / 'val.json') == {'val/b.mp4': ['two']}


BAD_CAPTIONS = {
    'header': ('a.csv', 'id,text\n1,x\n', "header: no column 'video' but"),
    'absent': ('a.csv', None, 'there is no such file'),
    'none': ('a.json', '{"x.mp4": "x"}', "none of its videos, such as 'x.mp4', is in"),
    'twice': ('a.json', '{"1": "x", "1.mp4": "y"}', 'another video are one file'),
    'few': ('a.json', '{"1": "x"}', 'too few usable clips have captions, 1; exp'),
    'words': ('a.json', '{"1": "x", "2": " "}', "caption 0 of '2' is ' ', expected wo"),
    'fields': ('a.json', '[{"video": "1"}]', "entry 0: no 'caption' but"),
}


@pytest.mark.parametrize('case', BAD_CAPTIONS)
def test_faulty_captions_are_one_line(case, lay, tmp_path, capsys):
    name, content, message = BAD_CAPTIONS[case]
    if content is not None:
        (tmp_path / name).write_text(content)
    folder = lay('1.mp4', '2.mp4')
    assert make(folder, '--captions', tmp_path / name) == 2
    assert message in capsys.readouterr().err
    assert not [*folder.glob('*.json')]


# --- The page -----------------------------------------------------------------------

# In the bases of the page's configs: the CLIP that comes with the package instead of
# ViT-B/32, with its sizes, and no data workers.
TINY = {
    "arch='ViT-B-32-quickgelu', weights='openai'": (
        "arch='ViT-moving-shapes', weights='mmstop'"
    ),
    "type='CaptionTokenize', ": "type='CaptionTokenize', arch='ViT-moving-shapes', ",
    'max_tokens = 32': 'max_tokens = 16',
    'image_size = 224': 'image_size = 56',
    'num_frames = 12': 'num_frames = 4',
    'num_workers=8': 'num_workers=0',
}
# In the configs themselves: the same steps, but few of them.
SHORT = {'max_epochs=10': 'max_epochs=2', 'max_epochs=5': 'max_epochs=1'}


def replace(texts: dict[Path, str], changes: dict[str, str]) -> dict[Path, str]:
    for old, new in changes.items():
        assert any(old in text for text in texts.values()), old
        texts = {path: text.replace(old, new) for path, text in texts.items()}
    return texts


def write_configs(folder: Path) -> None:
    """Write the page's two configs and a copy of what they start from."""
    bases = [*(ROOT / 'configs').rglob('_base_/**/*.py')]
    bases += [ROOT / 'configs' / f'stop_{name}.py' for name in ('ucf101', 'msrvtt')]
    texts = {path.relative_to(ROOT): path.read_text() for path in bases}
    names = ('mine', 'captioned')
    own = {
        Path(f'configs/{name}.py'): code
        for name, code in zip(names, code_of('own_clips.md'), strict=True)
    }
    for path, text in (replace(texts, TINY) | replace(own, SHORT)).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)


def write_clips(folder: Path) -> None:
    """Write clips of three motions, in folders and with captions, and one to classify.

    Their classes and captions mean the same in a mirror.
    """
    rows = ['video,caption']
    for motion in ('moving up', 'moving down', 'standing still'):
        label = drawing.CLASSES.index(motion)
        for i in range(5):
            scene, rng = moving_shapes.scene_of(0, 'own', 9 * i + label, (0, i), label)
            path = folder / 'data/mine' / motion / f'{i}.mp4'
            path.parent.mkdir(parents=True, exist_ok=True)
            moving_shapes.encode(path, drawing.render_clip(scene, rng))
            caption = moving_shapes.caption((0, i), label)
            rows += [f'{motion}/{i},{caption}', f'{motion}/{i},{caption} here']
    (folder / 'new').mkdir()
    shutil.copy(folder / 'data/mine/moving up/0.mp4', folder / 'new/clip.mp4')
    shutil.copytree(folder / 'data/mine', folder / 'data/captioned')
    (folder / 'data/captioned/captions.csv').write_text('\n'.join(rows))


def call(command: str) -> int:
    """Run a command of a page in this process, with its patterns expanded."""
    program, *words = shlex.split(command)
    arguments = [path for word in words for path in sorted(glob.glob(word)) or [word]]
    if program == 'mmstop':
        return cli.main(arguments)
    tools = {'make_lists': make_lists, 'train': train, 'test': test}
    assert program == 'python' and (ROOT / arguments[0]).is_file()
    return tools[Path(arguments[0]).stem].main(arguments[1:])


@pytest.mark.slow
def test_page_leads_from_clips_to_answers(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_configs(tmp_path)
    write_clips(tmp_path)
    outputs = {}
    for command in commands_of('own_clips.md'):
        assert call(command) == 0, command
        outputs[command.split(' --')[0]] = capsys.readouterr().out
    lists, train, test, classify, *_ = outputs.values()
    assert 'data/mine/train.txt: 12 videos, 4 or more of a class' in lists
    assert 'Epoch(train) [2][1/1]' in train
    assert 'acc/top1' in test
    assert len(classify.splitlines()) == 3 and 'new/clip.mp4' in classify
    for motion in ('moving up', 'moving down', 'standing still'):
        assert motion in classify
    *_, test, embed, search = outputs.values()
    assert 'retrieval/t2v/R1' in test
    found = [line for line in search.splitlines() if 'data/captioned/' in line]
    assert len(found) == 10, 'the best ten of fifteen'
