"""The converters of retrieval annotations, on small files in the official formats."""

import importlib.util
import json
import os
import pickle
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType

import pytest

DATA_TOOLS = Path(__file__).parents[1] / 'tools' / 'data'


def load_script(name: str) -> ModuleType:
    """Import tools/data/<name>.py by its path: tools/ is no package."""
    spec = importlib.util.spec_from_file_location(name, DATA_TOOLS / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where the converters find what they share
    spec.loader.exec_module(module)
    return module


official_files = load_script('official_files')
converter = load_script('converter')
SCRIPTS = {
    name: load_script(f'prepare_{name}')
    for name in ('msrvtt', 'activitynet', 'didemo', 'vatex', 'msvd', 'lsmdc')
}


def sentence(video: str, caption: str, number: int) -> dict:
    return {'video_id': video, 'caption': caption, 'sen_id': number}


def moment(video: str, description: str) -> dict:
    return {'video': video, 'description': description, 'times': [[0, 0], [0, 1]]}


def event(*sentences: str) -> dict:
    times = [[0, 1.5]] * len(sentences)
    return {'duration': 82.73, 'timestamps': times, 'sentences': list(sentences)}


def lsmdc_line(clip: str, text: str) -> str:
    return f'{clip}\t00:00:01\t00:00:02\t00:00:01\t00:00:02\t{text}\n'


CLIPS = [f'0001_American_Beauty_00.00.0{i}.926-00.00.0{i + 1}.129' for i in range(4)]
# case -> (input file -> content, written file -> content)
CASES = {
    'msrvtt': (
        {
            'msrvtt_data/MSRVTT_data.json': {
                'info': {'year': '2016'},
                'videos': [{'video_id': 'video0'}],
                'sentences': [
                    sentence('video1', 'a dog', 0),
                    sentence('video0', ' a cat  sleeps\n', 1),
                    sentence('video1', 'a dog', 2),
                    sentence('video2', 'a cow', 3),
                ],
            },
            'msrvtt_data/MSRVTT_train.9k.csv': 'video_id\nvideo0\nvideo1\n',
            'msrvtt_data/MSRVTT_train.7k.csv': 'video_id\nvideo1\n',
            'msrvtt_data/MSRVTT_JSFUSION_test.csv': (
                'key,vid_key,video_id,sentence\n'
                'ret0,msr7,video7,a man cooks\n'
                'ret1,msr8,video8,"one, two and ""three"""\n'
            ),
        },
        {
            'train_9k.json': {
                'video0.mp4': ['a cat sleeps'],
                'video1.mp4': ['a dog', 'a dog'],
            },
            'train_7k.json': {'video1.mp4': ['a dog', 'a dog']},
            'test_JSFUSION.json': {
                'video7.mp4': ['a man cooks'],
                'video8.mp4': ['one, two and "three"'],
            },
        },
    ),
    'activitynet': (
        {
            'annotations/train.json': {
                'v_QOlSC': event('A woman stands.', '  She dances. '),
                'v_gone': event('Nobody.'),
                'v_ehGHC': event('A title.', ' ', 'A man.'),
            },
            'annotations/train_list.txt': 'v_ehGHC\nv_QOlSC\n',
            'annotations/val_1.json': {'v_uqiMw': event('Weights.')},
            'annotations/val_1_list.txt': 'v_uqiMw\n',
        },
        {
            'train.json': {
                'v_ehGHC.mp4': ['A title. A man.'],
                'v_QOlSC.mp4': ['A woman stands. She dances.'],
            },
            'val_1.json': {'v_uqiMw.mp4': ['Weights.']},
        },
    ),
    'didemo': (
        {
            'annotations/train_data.json': [
                moment('1@N00_2_3.avi', 'a dog runs'),
                moment('4@N00_5_6', 'snow'),
                moment('1@N00_2_3.avi', 'it stops. '),
                moment('9@N00_9_9.mov', 'lost'),
            ],
            'annotations/train_list.txt': '1@N00_2_3.avi\n4@N00_5_6.mp4\n',
            'annotations/val_data.json': [moment('7@N00_8_9.MOV', 'sea')],
            'annotations/val_list.txt': '7@N00_8_9\n',
            'annotations/test_data.json': [moment('8@N00_8_9.m4v', 'sky')],
            'annotations/test_list.txt': '8@N00_8_9.m4v\n',
        },
        {
            'train.json': {
                '1@N00_2_3.avi': ['a dog runs it stops.'],
                '4@N00_5_6.mp4': ['snow'],
            },
            'val.json': {'7@N00_8_9.MOV': ['sea']},
            'test.json': {'8@N00_8_9.m4v': ['sky']},
        },
    ),
    'vatex': (
        {
            'annotations/ref_captions.json': {
                'Ptf_000122_000132': ['a man', 'a person'],
                'abc_000001_000011': ['a boat'],
                'new_000001_000011': ['not listed'],
            },
            'annotations/train_list.txt': 'abc_000001_000011\n',
            'annotations/test_list.txt': 'Ptf_000122_000132\n',
        },
        {
            'train.json': {'abc_000001_000011.mp4': ['a boat']},
            'test.json': {'Ptf_000122_000132.mp4': ['a man', 'a person']},
        },
    ),
    'vatex release': (
        {
            'annotations/vatex_training_v1.0.json': [
                {'videoID': 'abc_1_2', 'enCap': ['a boat'], 'chCap': ['船']}
            ],
            'annotations/vatex_validation_v1.0.json': [
                {'videoID': 'v_3_4', 'enCap': ['one'], 'chCap': ['一']},
                {'videoID': 'v_5_6', 'enCap': ['two', '2'], 'chCap': ['二']},
            ],
            'annotations/val_list.txt': 'v_3_4\n',
            'annotations/test_list.txt': 'v_5_6\n',
        },
        {
            'train.json': {'abc_1_2.mp4': ['a boat']},
            'val.json': {'v_3_4.mp4': ['one']},
            'test.json': {'v_5_6.mp4': ['two', '2']},
        },
    ),
    'msvd': (
        {
            'msvd_data/raw-captions.pkl': {
                '-4wsu_5_15': [['a', 'man'], ['a', 'person', 'sings']],
                'mv89_33_46': [['a', 'cat']],
                'nobody_1_2': [],  # in no list
                'test_1_2': [['rain']],
            },
            'msvd_data/train_list.txt': '-4wsu_5_15\n',
            'msvd_data/val_list.txt': 'mv89_33_46\n',
            'msvd_data/test_list.txt': 'test_1_2\n',
        },
        {
            'train.json': {'-4wsu_5_15.avi': ['a man', 'a person sings']},
            'val.json': {'mv89_33_46.avi': ['a cat']},
            'test.json': {'test_1_2.avi': ['rain']},
        },
    ),
    'lsmdc': (
        {
            'annotations/LSMDC16_annos_training.csv': (
                lsmdc_line(CLIPS[0], 'SOMEONE said "no.')
                + lsmdc_line(CLIPS[1], 'He waits.')
                + lsmdc_line(CLIPS[0], '"And leaves.')
            ),
            'annotations/LSMDC16_annos_val.csv': lsmdc_line(CLIPS[2], 'A car.'),
            'annotations/LSMDC16_challenge_1000_publictect.csv': (
                lsmdc_line(CLIPS[3], 'She smiles.')
            ),
        },
        {
            'train.json': {
                f'0001_American_Beauty/{CLIPS[0]}.avi': [
                    'SOMEONE said "no.',
                    '"And leaves.',
                ],
                f'0001_American_Beauty/{CLIPS[1]}.avi': ['He waits.'],
            },
            'val.json': {f'0001_American_Beauty/{CLIPS[2]}.avi': ['A car.']},
            'test.json': {f'0001_American_Beauty/{CLIPS[3]}.avi': ['She smiles.']},
        },
    ),
}
OPTIONAL = {  # inputs without which a case is none the worse
    'activitynet': {'annotations/train_list.txt', 'annotations/val_1_list.txt'},
    'didemo': {f'annotations/{split}_list.txt' for split in ('train', 'val', 'test')},
    'vatex release': {'annotations/test_list.txt'},
}
INPUTS = [(case, name) for case, (inputs, _) in CASES.items() for name in inputs]
LISTS = [(case, n) for case, n in INPUTS if n.endswith('.txt') or 'MSRVTT_train' in n]


def to_bytes(name: str, content) -> bytes:
    if isinstance(content, bytes):
        return content
    if name.endswith('.pkl'):
        return pickle.dumps(content)
    if name.endswith('.json') and not isinstance(content, str):
        content = json.dumps(content, ensure_ascii=False)
    return content.encode()


def put(root: Path, name: str, content) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(to_bytes(name, content))


def make_case(root: Path, case: str) -> dict:
    """Write all inputs of a case and give what should be written."""
    inputs, written = CASES[case]
    for name, content in inputs.items():
        put(root, name, content)
    return written


def convert(case: str, root: Path, *options: str) -> int:
    return SCRIPTS[case.partition(' ')[0]].main(['--root', str(root), *options])


def read_written(root: Path) -> dict:
    return {path.name: json.loads(path.read_text()) for path in root.glob('*.json')}


def assert_fails(case, root, capsys, *parts: str, options=()) -> None:
    """Check that the one line has these parts and that nothing was written."""
    before = {path: path.is_file() and path.read_bytes() for path in root.rglob('*')}
    assert convert(case, root, *options) == 2
    out, err = capsys.readouterr()
    assert out == ''
    assert err.startswith('error: ') and err.count('\n') == 1, err
    assert len(err) < 1000
    for part in parts:
        assert part in err
    after = {path: path.is_file() and path.read_bytes() for path in root.rglob('*')}
    assert after == before


@pytest.fixture
def root(tmp_path):
    return tmp_path / 'data'


@pytest.mark.parametrize('case', CASES)
def test_writes_exactly_the_captions_in_order(case, root):
    written = make_case(root, case)
    assert convert(case, root) == 0
    assert read_written(root) == written
    for name, captions in written.items():
        assert list(read_written(root)[name]) == list(captions)
    assert not list(root.rglob('*partial*'))


@pytest.mark.parametrize('case', CASES)
def test_byte_order_marks_crlf_and_blank_last_lines_are_no_faults(case, root):
    written = make_case(root, case)
    for name in CASES[case][0]:
        if not name.endswith('.pkl'):
            content = (root / name).read_bytes().replace(b'\n', b'\r\n')
            put(root, name, b'\xef\xbb\xbf' + content + b'\r\n \r\n\r\n')
    assert convert(case, root) == 0
    assert read_written(root) == written


@pytest.mark.parametrize('case', CASES)
def test_every_input_can_be_named(case, root, tmp_path, capsys, monkeypatch):
    inputs, written = CASES[case]
    script = SCRIPTS[case.partition(' ')[0]]
    with monkeypatch.context() as patch:
        patch.setattr(script, 'run', lambda parser, *_: parser.inputs.values())
        known = list(script.main([]))
    options = []
    for flag, default, _ in known:
        if default in inputs:
            put(tmp_path / 'elsewhere', Path(default).name, inputs[default])
            options += [flag, str(tmp_path / 'elsewhere' / Path(default).name)]
    assert len(options) == 2 * len(inputs)
    assert convert(case, root, *options) == 0
    assert read_written(root) == written
    with pytest.raises(SystemExit):
        script.main(['--help'])
    helped = capsys.readouterr().out
    for flag, default, _ in known:
        assert flag in helped and Path(default).name in helped.replace('\n', '')


@pytest.mark.parametrize('case, name', INPUTS)
def test_missing_files(case, name, root, capsys):
    make_case(root, case)
    (root / name).unlink()
    if name in OPTIONAL.get(case, ()):
        assert convert(case, root) == 0
    elif case == 'vatex' and name.endswith('.json'):
        assert_fails(case, root, capsys, 'neither ref_captions.json nor')
    elif case == 'vatex release':
        part = {
            'annotations/vatex_training_v1.0.json': 'vatex_training_v1.0.json is there',
            'annotations/vatex_validation_v1.0.json': "'v_3_4' has no captions in",
            'annotations/val_list.txt': "'v_5_6' is a video of test and",
        }
        assert_fails(case, root, capsys, part[name])
    else:
        assert_fails(case, root, capsys, f'{root / name}: there is no such file', '--')


@pytest.mark.parametrize('case, name', sorted({case: n for case, n in LISTS}.items()))
def test_missing_files_that_were_named(case, name, root, capsys):
    make_case(root, case)
    flag = '--train-9k' if case == 'msrvtt' else '--train-list'
    options = [flag, str(root / 'absent.txt')]
    assert_fails(case, root, capsys, 'absent.txt: there is no such', options=options)


@pytest.mark.parametrize('case, name', INPUTS)
def test_broken_files(case, name, root, capsys):
    make_case(root, case)
    content = to_bytes(name, CASES[case][0][name])
    other_kinds = {'.json': b'[7]', '.pkl': pickle.dumps([['a', 'man']])}
    broken = [b'', b'\xff\xfe\x00\x80' + content]
    broken.append(other_kinds.get(Path(name).suffix, b'<html>404</html>\n'))
    if name.endswith(('.json', '.pkl')):
        broken.append(content[:-3])
    for faulty in broken:
        put(root, name, faulty)
        assert_fails(case, root, capsys, f'error: {root / name}')


@pytest.mark.parametrize('case, name', LISTS)
def test_lists_with_an_unknown_id_or_one_twice(case, name, root, capsys):
    make_case(root, case)
    lines = (root / name).read_text()
    put(root, name, f'{lines}unheard_of\n')
    assert_fails(case, root, capsys, f'{root / name}: ', "'unheard_of' has no captions")
    put(root, name, f'{lines}{lines.splitlines()[-1]}\n')
    twice = official_files.stem(lines.splitlines()[-1])
    assert_fails(case, root, capsys, f'{root / name}: line', f"'{twice}' occurs twice")


def test_activitynet_s_own_lists_are_json(root, capsys):
    written = make_case(root, 'activitynet')
    many = [f'v_{i:011}' for i in range(10_009)]  # 170 kB in one line
    name = 'annotations/train_list.txt'
    put(root, name, json.dumps(['v_ehGHC', 'v_QOlSC']))
    assert convert('activitynet', root) == 0
    assert read_written(root) == written
    for content, message in (
        (['v_QOlSC', 'v_QOlSC'], "entry 2: 'v_QOlSC' occurs twice"),
        ([{'id': video} for video in many], 'expected a list of video ids, got'),
        (many, "'v_00000000000' has no captions"),
        (dict.fromkeys(many), 'has no captions'),
    ):
        put(root, name, json.dumps(content))
        assert convert('activitynet', root) == 2
        error = capsys.readouterr().err
        assert message in error and len(error) < 400 + 2 * len(str(root))


MSRVTT = 'msrvtt_data/MSRVTT_data.json'
JSFUSION = 'msrvtt_data/MSRVTT_JSFUSION_test.csv'
TRAINING = 'annotations/vatex_training_v1.0.json'
PUBLIC = 'annotations/LSMDC16_challenge_1000_publictect.csv'
FAULTS = [  # case, input file, content, parts of the message
    # captions without words
    (
        'msrvtt',
        MSRVTT,
        {'sentences': [sentence('video0', ' ', 0)]},
        ["sentences: entry 0: 'caption' is ' '"],
    ),
    (
        'msrvtt',
        JSFUSION,
        'key,vid_key,video_id,sentence\nret0,msr7,video7,""\n',
        ["line 2: 'sentence' is ''"],
    ),
    (
        'activitynet',
        'annotations/val_1.json',
        {'v_uqiMw': event(' ', '')},
        ["caption 0 of 'v_uqiMw'"],
    ),
    (
        'activitynet',
        'annotations/val_1.json',
        {'v_uqiMw': event()},
        ["'v_uqiMw'", 'expected words'],
    ),
    (
        'activitynet',
        'annotations/val_1.json',
        {'v_uqiMw': event('Weights.', 7)},
        ["'v_uqiMw': sentence 1 is 7"],
    ),
    (
        'didemo',
        'annotations/val_data.json',
        [moment('7@N00_8_9.MOV', 'sea'), moment('7@N00_8_9.MOV', '')],
        ["entry 1: 'description' is ''"],
    ),
    (
        'vatex',
        'annotations/ref_captions.json',
        {'abc_000001_000011': ['a boat', ' ']},
        ["caption 1 of 'abc_000001_000011' is ' '"],
    ),
    (
        'vatex release',
        TRAINING,
        [{'videoID': 'abc_1_2', 'enCap': ['']}],
        ["caption 0 of 'abc_1_2' is ''"],
    ),
    (
        'msvd',
        'msvd_data/raw-captions.pkl',
        {'-4wsu_5_15': [['a', 'man'], []]},
        ["caption 1 of '-4wsu_5_15' is ''"],
    ),
    ('lsmdc', PUBLIC, lsmdc_line(CLIPS[3], ' '), ['line 1', 'empty sentence']),
    # ids twice
    ('msrvtt', MSRVTT, '{"sentences": [], "sentences": []}', ["'sentences' occurs"]),
    (
        'msrvtt',
        JSFUSION,
        'key,vid_key,video_id,sentence\nret0,m,video7,one\nret1,m,video7,two\n',
        ["line 3: 'video7' occurs twice"],
    ),
    (
        'activitynet',
        'annotations/train.json',
        '{"v_a": {"sentences": ["A."]}, "v_a": {"sentences": ["B."]}}',
        ["'v_a' occurs twice"],
    ),
    ('didemo', 'annotations/val_list.txt', '7@N00_8_9\n7@N00_8_9.mp4', ['line 2']),
    (
        'vatex',
        'annotations/ref_captions.json',
        '{"a": ["one"], "a": ["two"]}',
        ["'a' occurs twice"],
    ),
    (
        'vatex release',
        TRAINING,
        [{'videoID': 'abc_1_2', 'enCap': ['one']}] * 2,
        ["'abc_1_2' occurs twice"],
    ),
    (
        'vatex release',
        TRAINING,
        [{'videoID': 'v_3_4', 'enCap': ['one']}],
        ["validation_v1.0.json: 'v_3_4' is in "],
    ),
    (
        'lsmdc',
        PUBLIC,
        2 * lsmdc_line(CLIPS[3], 'She smiles.'),
        [f"line 2: '{CLIPS[3]}' occurs twice"],
    ),
    # columns and fields
    (
        'msrvtt',
        'msrvtt_data/MSRVTT_train.9k.csv',
        'id,name\nvideo0,a\n',
        ["no column 'video_id' but ['id', 'name']"],
    ),
    (
        'msrvtt',
        JSFUSION,
        'key,vid_key,video_id,caption\nret0,msr7,video7,a man\n',
        ["no column 'sentence' but ['key', 'vid_key', 'video_id', 'caption']"],
    ),
    ('msrvtt', JSFUSION, 'key,vid_key,video_id,sentence\n', ['only a header']),
    (
        'msrvtt',
        JSFUSION,
        'key,vid_key,video_id,sentence\nret0,msr7,video7,one, two\n',
        ['line 2: 5 fields, expected 4'],
    ),
    (
        'msrvtt',
        JSFUSION,
        'key,vid_key,video_id,sentence\nret0,msr7,video7,"a man\n',
        ['not CSV'],
    ),
    ('msrvtt', MSRVTT, {'videos': []}, ["no 'sentences' but ['videos']"]),
    ('msrvtt', MSRVTT, {'sentences': []}, ['sentences: expected a list']),
    ('didemo', 'annotations/val_data.json', [{'video': 'a'}], ["no 'description'"]),
    ('didemo', 'annotations/val_data.json', {'a': 'b'}, ['expected a list']),
    ('activitynet', 'annotations/train.json', {'v': ['A.']}, ["'v'", 'an object']),
    (
        'activitynet',
        'annotations/train.json',
        {'database': {f'{n:011}': {} for n in range(9999)}},  # not the captions
        ["no 'sentences' but ['00000000000', ", '...; it may be another file'],
    ),
    ('vatex', 'annotations/ref_captions.json', {'a': 'b'}, ["'a' has 'b'"]),
    ('vatex release', TRAINING, [{'videoID': 'a', 'chCap': []}], ["no 'enCap' but"]),
    ('msvd', 'msvd_data/raw-captions.pkl', {'a': 'b'}, ["'a': expected lists of"]),
    ('msvd', 'msvd_data/raw-captions.pkl', {'a': [[1]]}, ["'a': expected lists of"]),
    ('lsmdc', PUBLIC, 'a\tb\n', ['line 1: 2 tab-separated fields, expected 6']),
    ('lsmdc', PUBLIC, lsmdc_line('clip', 'Hm.'), ["'clip' does not end in"]),
]
LEAKS = [  # case, what makes one video of train a video of test too, that video
    ('msrvtt', {'msrvtt_data/MSRVTT_train.7k.csv': 'video_id\nvideo7\n'}, 'video7'),
    (
        'activitynet',
        {
            'annotations/val_1.json': {'v_uqiMw': event('A.'), 'v_ehGHC': event('B.')},
            'annotations/val_1_list.txt': 'v_uqiMw\nv_ehGHC',
        },
        'v_ehGHC',
    ),
    (
        'didemo',
        {
            'annotations/test_data.json': [moment('4@N00_5_6.mov', 'snow')],
            'annotations/test_list.txt': '4@N00_5_6.mov',
        },
        '4@N00_5_6',
    ),
    ('vatex', {'annotations/test_list.txt': 'abc_000001_000011'}, 'abc_000001_000011'),
    ('vatex release', {'annotations/test_list.txt': 'v_5_6\nabc_1_2'}, 'abc_1_2'),
    ('msvd', {'msvd_data/test_list.txt': '-4wsu_5_15'}, '-4wsu_5_15'),
    ('lsmdc', {PUBLIC: lsmdc_line(CLIPS[1], 'He waits.')}, CLIPS[1]),
]


@pytest.mark.parametrize('case, name, content, parts', FAULTS)
def test_faulty_entries(case, name, content, parts, root, capsys):
    make_case(root, case)
    put(root, name, content)
    assert_fails(case, root, capsys, str(root / name), *parts)


@pytest.mark.parametrize('case, contents, video', LEAKS)
def test_one_video_in_train_and_test(case, contents, video, root, capsys):
    make_case(root, case)
    put(root, 'train.json', '{"written": ["before"]}')
    for name, content in contents.items():
        put(root, name, content)
    if case == 'msrvtt':
        data = json.loads((root / MSRVTT).read_text())
        put(root, MSRVTT, {'sentences': [*data['sentences'], sentence(video, 'x', 4)]})
    assert_fails(case, root, capsys, video, ' is a video of ', 'of train', 'remove')


def test_an_input_is_not_written_over(root, capsys):
    make_case(root, 'activitynet')
    put(root, 'train.json', CASES['activitynet'][0]['annotations/train.json'])
    options = ['--train', str(root / 'train.json')]
    assert_fails('activitynet', root, capsys, 'an input file', options=options)


def test_nothing_is_left_behind_when_writing_fails(root, capsys, monkeypatch):
    make_case(root, 'activitynet')

    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(converter.os, 'replace', full)
    assert_fails('activitynet', root, capsys, f'{root}: No space left')


@pytest.mark.parametrize('case', CASES)
def test_missing_videos_are_counted_and_named_and_dropped_if_asked(case, root, capsys):
    written = make_case(root, case)
    assert convert(case, root) == 0
    out = capsys.readouterr().out
    assert out.count(f'{root / "videos"} does not exist') == 1
    assert 'on disk' not in out
    drop = ['--drop-missing']
    assert_fails(case, root, capsys, 'there is no such folder', options=drop)

    (root / 'videos').mkdir()
    assert_fails(case, root, capsys, 'has none of the', options=drop)
    for captions in written.values():  # all but the first of each file
        for video in list(captions)[1:]:
            put(root, f'videos/{video}', b'')
    assert convert(case, root) == 0
    assert read_written(root) == written
    out = capsys.readouterr().out
    for name, captions in written.items():
        block = out.split(f'{root / name}\n')[1].split('\n\n')[0]
        first, *others = captions
        if name == 'train_7k.json':  # its only video is the second of train_9k.json
            assert 'all 1 videos' in block
        else:
            missing = f'1 of {len(captions)} videos are missing from {root / "videos"}'
            assert f'{missing} (kept' in block and f'  {first}\n' in f'{block}\n'

    for captions in written.values():
        if len(captions) == 1:
            put(root, f'videos/{next(iter(captions))}', b'')
    assert convert(case, root, *drop) == 0
    out = capsys.readouterr().out
    for name, captions in written.items():
        kept = list(captions)[1:] or list(captions)
        assert list(read_written(root)[name]) == kept
        block = out.split(f'{root / name}\n')[1].split('\n\n')[0]
        assert f'written    {len(kept)} videos' in block
        assert ('(left out)' if len(captions) > 1 else 'all 1 videos') in block


def test_the_extension_on_disk_is_the_one_written(root, capsys):
    make_case(root, 'didemo')
    for video in ('1@N00_2_3.mp4', '4@N00_5_6.MOV', '7@N00_8_9.MOV', '8@N00_8_9.txt'):
        put(root, f'videos/{video}', b'')
    assert convert('didemo', root) == 0
    assert {name: list(captions) for name, captions in read_written(root).items()} == {
        'train.json': ['1@N00_2_3.mp4', '4@N00_5_6.MOV'],
        'val.json': ['7@N00_8_9.MOV'],
        'test.json': ['8@N00_8_9.m4v'],
    }
    out = capsys.readouterr().out
    assert 'with another extension there: 2\n' in out
    assert '13 of the videos' in out  # what is known of the missing


def test_no_more_than_five_missing_videos_are_named(root, capsys):
    make_case(root, 'msvd')
    ids = [f'video{i}' for i in range(7)]
    put(root, 'msvd_data/raw-captions.pkl', {v: [['a']] for v in [*ids, 'val', 'test']})
    for split, listed in {'train': ids, 'val': ['val'], 'test': ['test']}.items():
        put(root, f'msvd_data/{split}_list.txt', '\n'.join(listed))
    (root / 'videos').mkdir()
    assert convert('msvd', root) == 0
    assert 'video3.avi, video4.avi, ...\n' in capsys.readouterr().out


def test_the_published_sizes_of_msrvtt(root, capsys):
    make_case(root, 'msrvtt')
    lines = [f'ret{i},msr{i},video{9000 + i},a man\n' for i in range(1000)]
    put(root, JSFUSION, 'key,vid_key,video_id,sentence\n' + ''.join(lines))
    assert convert('msrvtt', root) == 0
    train_9k, _, test = capsys.readouterr().out.split('\n\n')[1:]
    same = 'published  the same: 1,000 videos, 1,000 captions (JSFusion'
    assert same in test and 'DIFFERENT' not in test
    assert 'DIFFERENT: expected 9,000 videos, 180,000 captions (JSFusion' in train_9k
    assert 'found 2 videos, 3 captions' in train_9k

    put(root, JSFUSION, 'key,vid_key,video_id,sentence\n' + ''.join(lines[1:]))
    assert convert('msrvtt', root) == 0
    test = capsys.readouterr().out.split('\n\n')[-1]
    assert 'DIFFERENT: expected 1,000 videos' in test and 'found 999 videos' in test


def fitting(captions: dict) -> 'converter.Published':
    texts = sum(map(len, captions.values()))
    return converter.Published(len(captions), texts, 'us', 'known to differ')


@pytest.mark.parametrize(
    'case, sizes',
    [
        ('activitynet', ['10,009 videos', '4,917 videos']),
        ('didemo', ['8,395 videos', '1,065 videos', '1,004 videos']),
        ('vatex', ['25,991 videos', '1,500 videos']),
        ('vatex release', ['25,991 videos', '1,500 videos', '1,500 videos']),
        ('msvd', ['1,200 videos', '100 videos', '670 videos']),
        ('lsmdc', ['101,079 captions', '7,408 captions', '1,000 videos']),
    ],
)
def test_published_sizes(case, sizes, root, capsys, monkeypatch):
    make_case(root, case)
    assert convert(case, root) == 0
    blocks = capsys.readouterr().out.split('\n\n')[1:]
    for block, expected in zip(blocks, sizes, strict=True):
        assert f'DIFFERENT: expected {expected}' in block
        exact = case == 'msvd' or (case, expected) == ('lsmdc', '1,000 videos')
        assert ('known to differ' in block) != exact

    script = SCRIPTS[case.partition(' ')[0]]
    monkeypatch.setattr(
        script, 'Split', lambda *args: converter.Split(*args[:3], fitting(args[1]))
    )
    assert convert(case, root) == 0
    out = capsys.readouterr().out
    assert out.count('the same: ') == len(sizes)
    assert 'DIFFERENT' not in out and 'known to differ' not in out


def test_splits_of_the_official_vatex_release(root, capsys):
    make_case(root, 'vatex release')
    folder = root / 'annotations'
    (folder / 'val_list.txt').unlink()  # the validation file has test videos
    assert_fails('vatex release', root, capsys, "'v_5_6'", 'of val')

    (folder / 'test_list.txt').unlink()
    assert convert('vatex release', root) == 0
    assert list(read_written(root)['val.json']) == ['v_3_4.mp4', 'v_5_6.mp4']
    assert 'expected 3,000 videos, 30,000 captions' in capsys.readouterr().out

    assert convert('vatex release', root, '--language', 'zh') == 0
    assert read_written(root)['train.json'] == {'abc_1_2.mp4': ['船']}
    capsys.readouterr()

    put(root, 'annotations/ref_captions.json', {'a': ['b']})
    assert_fails('vatex release', root, capsys, 'has its own English captions')


class Payload:
    """Something whose pickle makes a folder when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_cannot_run_code(root, tmp_path, capsys):
    make_case(root, 'msvd')
    harm = tmp_path / 'harm'
    content = pickle.dumps({'-4wsu_5_15': [['a', Payload(harm)]]})
    put(root, 'msvd_data/raw-captions.pkl', content)
    assert_fails('msvd', root, capsys, 'raw-captions.pkl', 'mkdir, which could run')
    assert not harm.exists()
    pickle.loads(content)
    assert harm.exists()  # so the payload was a real one


def test_pickles_of_python_2_and_of_other_containers(root):
    make_case(root, 'msvd')
    content = (
        b"(dS'-4wsu_5_15'\n(l(lS'a'\naS'caf\\xe9'\naS'na\\xc3\\xafve'\naas"
        b"S'mv89_33_46'\n(l(lS'a'\naVcat\naasS'test_1_2'\n(l(lS'a'\naas."
    )
    put(root, 'msvd_data/raw-captions.pkl', content)
    assert convert('msvd', root) == 0
    assert read_written(root) == {
        'train.json': {'-4wsu_5_15.avi': ['a café naïve']},
        'val.json': {'mv89_33_46.avi': ['a cat']},
        'test.json': {'test_1_2.avi': ['a']},
    }

    inputs, written = CASES['msvd']
    captions = defaultdict(list, inputs['msvd_data/raw-captions.pkl'])
    for protocol in (0, 2, 4):
        content = pickle.dumps(captions, protocol)
        put(root, 'msvd_data/raw-captions.pkl', content)
        assert convert('msvd', root) == 0
        assert read_written(root) == written


def test_the_bare_command(tmp_path):
    root = tmp_path / 'data' / 'video_retrieval' / 'msvd'
    written = make_case(root, 'msvd')
    command = [sys.executable, str(DATA_TOOLS / 'prepare_msvd.py')]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')
    assert read_written(root) == written


def test_lists_of_ids_are_split_at_line_ends_only(tmp_path):
    path = tmp_path / 'ids.txt'
    path.write_bytes('a.mp4\rb\x0cc\r\nd\u2028e\x85f\n\n'.encode())
    assert official_files.read_ids(path) == ['a', 'b\x0cc', 'd\u2028e\x85f']
