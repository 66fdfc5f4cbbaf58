"""A folder that shares a model: it embeds alike, runs nothing, and is checked."""

import json
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch
from huggingface_hub import ModelCard
from mmengine.config import Config
from tiny_run import train_wildly, write_tiny_retrieval, write_tiny_run

from mmstop.apis import VideoCLIP, publish
from mmstop.apis.published import read_published
from mmstop.architectures import ASSETS
from mmstop.config import load_config
from mmstop.errors import ConfigError
from mmstop_cli import main

CLIP = {'arch': 'ViT-moving-shapes', 'weights': 'mmstop', 'image_size': 56}
FILES = ['README.md', 'config.json', 'model.safetensors']
PACKAGED = ASSETS / 'ViT-moving-shapes.safetensors'
TOWER = 'model.backbone.clip'


class Run:
    """A config over the packaged CLIP, its checkpoint, and the folder shared of it."""

    def __init__(self, folder, write):
        self.folder = folder
        tiny = write(folder)
        self.config = folder / f'own_{tiny.name}'
        load_config(str(tiny), CLIP).dump(self.config)
        self.checkpoint = train_wildly(self.config)
        self.shared = folder / f'shared_{tiny.stem}'
        publish(load_config(str(self.config)), self.checkpoint, self.shared)

    def publish(self, out, **options):
        return publish(load_config(str(self.config), options), self.checkpoint, out)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('run')


@pytest.fixture(scope='module')
def retrieval(folder):
    return Run(folder, write_tiny_retrieval)


@pytest.fixture(scope='module')
def shared(retrieval):
    return VideoCLIP.from_pretrained(retrieval.shared, device='cpu')


def assert_embeds_alike(run, given, shared):
    videos = sorted((run.folder / 'videos').rglob('*.mp4'))[:3]
    found = shared.encode_video(videos)
    np.testing.assert_array_equal(found, given.encode_video(videos))
    assert not np.array_equal(found[0], found[1])
    texts = ['red', 'a green square']
    np.testing.assert_array_equal(shared.encode_text(texts), given.encode_text(texts))
    # An index that one of them made is searched by the other.
    assert shared.identity.fingerprint == given.identity.fingerprint


def test_embeds_as_config_and_checkpoint_do_bit_for_bit(retrieval, shared):
    given = VideoCLIP.from_config(retrieval.config, retrieval.checkpoint, 'cpu')
    assert_embeds_alike(retrieval, given, shared)
    long = ['a long caption ' * 9]  # cut as in testing
    np.testing.assert_array_equal(shared.encode_text(long), given.encode_text(long))


@pytest.mark.slow
def test_classifies_as_config_and_checkpoint_do(folder, capsys):
    run = Run(folder, write_tiny_run)
    given = VideoCLIP.from_config(run.config, run.checkpoint, 'cpu')
    shared = VideoCLIP.from_pretrained(run.shared, 'cpu')
    assert_embeds_alike(run, given, shared)
    (video, *_) = (run.folder / 'videos').rglob('*.mp4')
    (labels,) = given.classify(str(video))
    assert shared.classify(str(video)) == [labels]
    command = ['classify', str(video), '--model', str(run.shared), '--json']
    capsys.readouterr()
    assert main(command) == 0
    (named,) = json.loads(capsys.readouterr().out)
    assert named['predictions'] == [label._asdict() for label in labels]
    data = ModelCard.load(run.shared / 'README.md').data
    assert (data.pipeline_tag, data.metrics) == ('video-classification', ['accuracy'])
    assert data.license == 'unknown'


def test_folder_holds_what_was_trained_and_no_paths(retrieval):
    assert sorted(path.name for path in retrieval.shared.iterdir()) == FILES
    trained = safetensors.torch.load_file(retrieval.shared / 'model.safetensors')
    state = torch.load(retrieval.checkpoint, weights_only=False)['state_dict']
    assert trained.keys() == state.keys() and 'backbone.temporal.bank.bias' in state
    assert all(torch.equal(trained[name], state[name]) for name in state)
    for name in ('README.md', 'config.json'):
        assert str(retrieval.folder) not in (retrieval.shared / name).read_text()


def test_card_says_what_the_hub_and_its_readers_ask(retrieval, tmp_path, capsys):
    metrics = tmp_path / 'results.json'
    metrics.write_text('{"retrieval/t2v/R1": 83.333, "time": 3.0}')
    command = ['publish', retrieval.config, retrieval.checkpoint, tmp_path / 'out']
    options = ['--license', 'apache-2.0', '--metrics', metrics]
    options += ['--cfg-options', 'test_dataloader.batch_size=4', 'work_dir=/home/me']
    assert main([str(word) for word in (*command, *options)]) == 0
    printed = capsys.readouterr().out
    assert all(f'{tmp_path / "out" / name}: ' in printed for name in FILES)
    card = ModelCard.load(tmp_path / 'out' / 'README.md')
    assert card.data.to_dict() == {
        'license': 'apache-2.0',
        'library_name': 'mmstop',
        'pipeline_tag': 'feature-extraction',
        'metrics': ['recall'],
        'tags': ['video', 'clip', 'STOPCLIPViT'],
    }
    content = json.loads((tmp_path / 'out' / 'config.json').read_text())
    frozen = content['meta']['frozen']
    assert frozen.keys() == {'backbone.clip', 'text'}
    digest = frozen['backbone.clip']['sha256']
    for fact in (
        '| retrieval/t2v/R1 | 83.33 |',
        '| training | `train.json` |',
        '| test | `test.json` |',
        f'| frozen CLIP, `backbone.clip` | mmstop | `{digest}` |',
        f'`{content["sha256"]}`',
        'tools/test.py own_retrieval.py own_retrieval.pth --cfg-options '
        'test_dataloader.batch_size=4 work_dir=me\n',
    ):
        assert fact in card.text, fact


# --- What is refused ------------------------------------------------------------------


@pytest.fixture
def copied(retrieval, tmp_path):
    return shutil.copytree(retrieval.shared, tmp_path / 'copied')


def change(path, *keys, value):
    content = json.loads(path.read_text())
    node = content
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    path.write_text(json.dumps(content))


HOSTILE = dict(type='subprocess.Popen', args=['touch', 'marker'])
BACKBONE = 'model', 'backbone'


@pytest.mark.parametrize(
    'keys, value, message',
    [
        (
            ('format',),
            2,
            'config.json has the format 2, expected 1; it was not written',
        ),
        (('sha256',), 'ab', 'SHA-256 .* config.json expects ab: one of them was chan'),
        (('model',), None, 'config.json has no model; get it again'),
        (
            ('test_pipeline', 0),
            {'tuple': 5},
            'pipeline.0 has no .type.; its keys are tuple',
        ),
        (('meta', 'frozen'), 'backbone.clip', 'has no digest of the CLIP in backbone'),
        (('meta',), 'none', 'config.json has no digest of the CLIP in backbone'),
        (('model', 'backbone'), HOSTILE, "type='subprocess.Popen', and a published "),
        (('model', 'type'), 'TSN', "type='TSN', and a published config names classes"),
        (('test_pipeline', 0), HOSTILE, "test_pipeline has type='subprocess.Popen'"),
        (('test_pipeline', 0, 'io_backend'), 'http', "io_backend='http' is not for a"),
        ((*BACKBONE, '_scope_'), 'os', "_scope_='os' is not for a published config"),
        ((*BACKBONE, 'clip', 'arch'), 'a.json', "arch='a.json' is no name of open_cl"),
        ((*BACKBONE, 'clip', 'weights'), '/a.pt', "weights='/a.pt' is no tag of ViT-"),
        (('model', 'classes'), '/a', "classes='/a', expected a list of"),
        ((*BACKBONE, 'alhpa'), 1, "takes no 'alhpa'; did you mean 'alpha'"),
        ((*BACKBONE, 'alpha'), 0.9, 'with other arguments.*alpha=0.4 instead of 0.9'),
        (
            ('meta', 'frozen'),
            {},
            'config.json has no digest of the CLIP in backbone.cl',
        ),
        (
            ('meta', 'frozen', 'backbone.clip', 'sha256'),
            'ab',
            "over another CLIP: .*weights='mmstop' .* Give the CLIP that it names as",
        ),
    ],
)
def test_a_config_that_was_tampered_with_is_refused(
    keys, value, message, copied, shared, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    change(copied / 'config.json', *keys, value=value)
    with pytest.raises(ConfigError, match=message):
        read_published(copied).fill(shared.model)
    assert not (tmp_path / 'marker').exists()


@pytest.mark.parametrize('name', FILES[1:])
def test_a_file_that_is_missing_or_cut_short_is_named(name, copied):
    path = copied / name
    content = path.read_bytes()
    path.write_bytes(content[:-9])
    with pytest.raises(ConfigError, match=f'{name}.* (cut short|not whole)'):
        read_published(copied)
    with pytest.raises(ConfigError, match="is a folder, which has no revision 'v1'; l"):
        read_published(copied, revision='v1')
    path.unlink()
    with pytest.raises(ConfigError, match=f'copied has no {name}, so that it is not'):
        read_published(copied)


@pytest.mark.slow
def test_the_clip_below_may_be_a_file_but_no_other_one(retrieval, shared, tmp_path):
    clip = VideoCLIP.from_pretrained(retrieval.shared, 'cpu', weights=str(PACKAGED))
    assert clip.identity.fingerprint == shared.identity.fingerprint
    state = safetensors.torch.load_file(PACKAGED)
    state['visual.proj'] += 0.1
    other = tmp_path / 'other.safetensors'
    safetensors.torch.save_file(state, other)
    with pytest.raises(
        ConfigError, match=r'over another CLIP: .* \(sha256 \w{12}\) in'
    ):
        VideoCLIP.from_pretrained(retrieval.shared, 'cpu', weights=str(other))


@pytest.mark.parametrize(
    'options, message',
    [
        ({f'{TOWER}.arch': 'tests/a.json'}, "arch='tests/a.json' is no name of open_"),
        ({'weights': str(PACKAGED)}, 'is no tag of ViT-moving-shapes, .* --weights op'),
        ({'model.type': 'CLIPTwin'}, "type='CLIPTwin', and a published config names"),
        ({f'{TOWER}.trainable': 1 + 2j}, r'clip.trainable is \(1\+2j\), which JSON'),
    ],
)
def test_a_config_that_readers_could_not_use_is_refused(
    options, message, retrieval, tmp_path
):
    with pytest.raises(ConfigError, match=message):
        retrieval.publish(tmp_path / 'out', **options)
    assert not (tmp_path / 'out').exists()


@pytest.mark.slow
def test_a_tag_names_the_file_that_a_config_has(retrieval, tmp_path):
    cfg = load_config(str(retrieval.config), {'weights': str(PACKAGED)})
    publish(cfg, retrieval.checkpoint, tmp_path / 'out', weights='mmstop')
    for name in FILES:
        expected = (retrieval.shared / name).read_bytes()
        assert (tmp_path / 'out' / name).read_bytes() == expected, name


def test_nothing_else_is_shared(retrieval, tmp_path):
    (tmp_path / 'notes.py').touch()
    with pytest.raises(ConfigError, match=r"other files \('notes.py'\), .* new folder"):
        retrieval.publish(tmp_path)


@pytest.mark.slow
def test_a_model_that_nothing_was_trained_of_is_refused(folder, tmp_path):
    path = tmp_path / 'plain.py'
    cfg = load_config(str(write_tiny_retrieval(folder)), CLIP)
    cfg.model.backbone = cfg.model.backbone.clip
    cfg.dump(path)
    torch.save({'state_dict': {}}, tmp_path / 'empty.pth')
    with pytest.raises(ConfigError, match='plain.py: nothing of its model was trained'):
        with pytest.warns(UserWarning, match='does not say over which CLIP'):
            publish(Config.fromfile(path), tmp_path / 'empty.pth', tmp_path / 'out')


def test_results_without_a_metric_are_refused(retrieval, tmp_path, capsys):
    results = tmp_path / 'results.json'
    results.write_text('{"time": 3.0}')
    arguments = retrieval.config, retrieval.checkpoint, tmp_path / 'out'
    command = ['publish', *map(str, arguments), '--metrics', str(results)]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert 'results.json: it has no results such as "acc/top1": 0.83; give' in error


# --- The hub --------------------------------------------------------------------------


def test_a_name_on_the_hub_is_downloaded_by_its_library(retrieval, monkeypatch):
    asked = []

    def snapshot_download(name, revision, allow_patterns):
        asked.append((name, revision, sorted(allow_patterns)))
        return str(retrieval.shared)

    monkeypatch.setattr('huggingface_hub.snapshot_download', snapshot_download)
    monkeypatch.setattr('mmstop.apis.published.unreachable', lambda url: None)
    found = read_published('lab/stop', revision='v1')
    assert asked == [('lab/stop', 'v1', FILES)]
    assert found.name == 'lab/stop'


@pytest.mark.parametrize('name', ['lab/stop', '../no/such/folder'])
def test_a_name_that_is_nowhere_is_one_line(name, monkeypatch):
    monkeypatch.setattr('mmstop.apis.published.unreachable', lambda url: 'no network')
    message = f"'{name}' is neither a folder nor a model that http.* \\(no network\\)"
    with pytest.raises(ConfigError, match=message) as caught:
        VideoCLIP.from_pretrained(name)
    assert '\n' not in str(caught.value)
