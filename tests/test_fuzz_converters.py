"""Annotation files of any content: their captions, or one clear fault."""

import contextlib
import io
import json
import pickle
import tempfile
from pathlib import Path

from fuzz import fuzz
from hypothesis import example
from hypothesis.strategies import (
    binary,
    booleans,
    characters,
    composite,
    dictionaries,
    floats,
    integers,
    lists,
    none,
    one_of,
    recursive,
    sampled_from,
    text,
)
from test_converters import (
    CASES,
    OPTIONAL,
    convert,
    event,
    lsmdc_line,
    moment,
    official_files,
    put,
    read_written,
    sentence,
    to_bytes,
)

from mmstop.datasets import AnnotationError, load_captions

# --- Valid files: every id and caption comes through ----------------------------------

any_character = characters(codec='utf-8')
visible = characters(codec='utf-8', exclude_categories=['C', 'Z'])
words = text(visible, min_size=1, max_size=8)
captions = lists(words, min_size=1, max_size=4).map(' '.join)
# A slash or a backslash would be a folder, and a suffix is no part of an id.
ids = text(characters(codec='utf-8', exclude_categories=['C', 'Z'],
                      exclude_characters='/\\'), min_size=1, max_size=8).filter(
    lambda name: official_files.stem(name) == name and name not in ('.', '..')
)  # fmt: skip


@composite
def splits(draw):
    """Draw the captions of three splits, which share no video: [{id: [caption]}]."""
    chosen = draw(lists(ids, min_size=3, max_size=7, unique=True))
    whole = {name: draw(lists(captions, min_size=1, max_size=3)) for name in chosen}
    cut = draw(integers(1, len(chosen) - 2))
    parts = chosen[:cut], chosen[cut:-1], chosen[-1:]
    return [{name: whole[name] for name in part} for part in parts]


def lined(names):
    return '\n'.join(names)


def quoted(*fields):
    return ','.join('"' + field.replace('"', '""') + '"' for field in fields) + '\n'


def one_each(captions):
    return {name: texts[:1] for name, texts in captions.items()}


def msrvtt(train, other, test):
    both = train | other
    rows = [quoted('ret', 'msr', name, texts[0]) for name, texts in test.items()]
    return {
        'MSRVTT_data.json': {
            'sentences': [sentence(v, t, 0) for v, ts in both.items() for t in ts]
        },
        'MSRVTT_train.9k.csv': quoted('video_id') + ''.join(map(quoted, both)),
        'MSRVTT_train.7k.csv': quoted('video_id') + ''.join(map(quoted, train)),
        'MSRVTT_JSFUSION_test.csv': 'key,vid_key,video_id,sentence\n' + ''.join(rows),
    }, {'train_9k': both, 'train_7k': train, 'test_JSFUSION': one_each(test)}


def activitynet(train, val, _):
    files = {
        f'{split}.json': {video: event(*texts) for video, texts in captions.items()}
        for split, captions in (('train', train), ('val_1', val))
    }
    return files, {'train': joined(train), 'val_1': joined(val)}


def joined(captions):
    return {video: [' '.join(texts)] for video, texts in captions.items()}


def didemo(*splits):
    named = dict(zip(('train', 'val', 'test'), splits))
    files = {
        f'{split}_data.json': [moment(v, t) for v, ts in captions.items() for t in ts]
        for split, captions in named.items()
    }
    return files, {split: joined(captions) for split, captions in named.items()}


def vatex(train, val, test):
    named = dict(train=train, val=val, test=test)
    lists = {f'{split}_list.txt': lined(captions) for split, captions in named.items()}
    return {'ref_captions.json': train | val | test, **lists}, named


def vatex_release(train, val, test):
    def release(captions):
        return [{'videoID': v, 'enCap': texts} for v, texts in captions.items()]

    return {
        'vatex_training_v1.0.json': release(train),
        'vatex_validation_v1.0.json': release(val),
        'vatex_public_test_english_v1.1.json': release(test),
    }, dict(train=train, val=val, test=test)


def msvd(train, val, test):
    files, named = vatex(train, val, test)
    everything = files.pop('ref_captions.json')
    split = {v: [t.split(' ') for t in texts] for v, texts in everything.items()}
    return {'raw-captions.pkl': split, **files}, named


def lsmdc(*splits):
    names = 'annos_training', 'annos_val', 'challenge_1000_publictect'
    train, val, test = [
        {f'{v}_00.00.01-00.00.02': texts for v, texts in captions.items()}
        for captions in splits
    ]
    named = {'train': train, 'val': val, 'test': one_each(test)}
    files = {
        f'LSMDC16_{name}.csv': ''.join(
            lsmdc_line(v, t) for v, texts in captions.items() for t in texts
        )
        for name, captions in zip(names, named.values())
    }
    return files, {
        split: {f'{v[:-18]}/{v}': texts for v, texts in captions.items()}
        for split, captions in named.items()
    }


FORMATS = {
    'msrvtt': (msrvtt, 'msrvtt_data', '.mp4'),
    'activitynet': (activitynet, 'annotations', '.mp4'),
    'didemo': (didemo, 'annotations', '.mp4'),
    'vatex': (vatex, 'annotations', '.mp4'),
    'vatex release': (vatex_release, 'annotations', '.mp4'),
    'msvd': (msvd, 'msvd_data', '.avi'),
    'lsmdc': (lsmdc, 'annotations', '.avi'),
}


def quietly(case, root, *options):
    """Convert; return the exit status and what went to standard error."""
    # Unlike what collects text in memory, a terminal refuses half a character.
    streams = [io.TextIOWrapper(io.BytesIO(), 'utf-8') for _ in range(2)]
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        status = convert(case, root, *options)
    streams[1].flush()
    return status, streams[1].buffer.getvalue().decode()


@fuzz(250, case=sampled_from(list(FORMATS)), splits=splits(), videos=booleans())
def test_ids_and_captions_come_through(case, splits, videos):
    files_of, folder, suffix = FORMATS[case]
    files, expected = files_of(*splits)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for file, content in files.items():
            put(root, f'{folder}/{file}', content)
        if videos:
            (root / 'videos').mkdir()
        assert quietly(case, root) == (0, '')
        written = read_written(root)
    for split, captions in expected.items():
        found = written.pop(f'{split}.json')
        assert found == {f'{v}{suffix}': texts for v, texts in captions.items()}
        assert list(found) == [f'{video}{suffix}' for video in captions]
    assert not written


# --- Any other files: an AnnotationError or nothing -----------------------------------

scalars = one_of(none(), booleans(), integers(), floats(), text(max_size=5))
values = recursive(
    scalars,
    lambda inner: (
        lists(inner, max_size=3) | dictionaries(text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
INPUTS = [(case, name) for case, (inputs, _) in CASES.items() for name in inputs]


@composite
def mangled(draw, content):
    """Draw bytes near ``content``: parts cut, repeated, overwritten."""
    for _ in range(draw(integers(1, 3))):
        start, stop = sorted(draw(integers(0, len(content))) for _ in range(2))
        middle = draw(one_of(binary(max_size=6), sampled_from([
            b'', content[start:stop] * 2, b'\n', b'\t', b'"', b'\\ud800', b'\0',
            b'NaN', b'null', b'[]', b'{}', b'9' * 5000, b'[' * 1200,
        ])))  # fmt: skip
        content = content[:start] + middle + content[stop:]
    return content


def replaced(draw, node):
    """Put a random value somewhere into a JSON value."""
    if not isinstance(node, (dict, list)) or not node or draw(integers(0, 3)) == 0:
        return draw(values)
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    key = draw(sampled_from(keys))
    copy = node.copy()
    copy[key] = replaced(draw, node[key])
    return copy


@composite
def faults(draw):
    """Draw a case, one of its input files and other bytes for it."""
    case, name = draw(sampled_from(INPUTS))
    content = CASES[case][0][name]
    if not isinstance(content, str) and draw(booleans()):
        other = replaced(draw, content)
        dump = pickle.dumps if name.endswith('.pkl') else json.dumps
        other = dump(other)
        return case, name, other if isinstance(other, bytes) else other.encode()
    return case, name, draw(mangled(to_bytes(name, content)))


HALF = b'[{"video": "a\\ud800", "description": "x"}]'


@fuzz(500, few=10, fault=faults(), videos=booleans(), optional=booleans())
@example(
    fault=('didemo', 'annotations/val_data.json', HALF), videos=True, optional=False
)
def test_a_faulty_file_is_one_line(fault, videos, optional):
    case, file, content = fault
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for other, good in CASES[case][0].items():
            if optional or other not in OPTIONAL.get(case, ()):
                put(root, other, good)
        put(root, file, content)
        if videos:
            (root / 'videos').mkdir()
        status, error = quietly(case, root)
        written = {path.name: load_captions(path) for path in root.glob('*.json')}
    if status == 0:
        assert error == ''
        assert written.keys() >= CASES[case][1].keys() - {'val.json', 'test.json'}
    else:
        assert status == 2
        assert error.startswith('error: ') and error.count('\n') == 1
        assert not written


@fuzz(250, few=10, content=one_of(
    binary(max_size=40),
    values.map(lambda value: json.dumps(value).encode()),
    mangled(b'{"a.mp4": ["one", "two"], "b.mp4": ["three"]}'),
))  # fmt: skip
@example(content=b'{"a.mp4": [' + b'9' * 5000 + b']}')
@example(content=b'{"a.mp4": ["\\ud83d"]}')
def test_captions_are_read_or_refused(content):
    with tempfile.NamedTemporaryFile(suffix='.json') as file:
        Path(file.name).write_bytes(content)
        try:
            found = load_captions(file.name)
        except AnnotationError as error:
            assert str(error).startswith(f'{file.name}: ')
            return
    assert found
    for video, texts in found.items():
        assert isinstance(video, str) and texts
        assert all(isinstance(text, str) and text.strip() for text in texts)
