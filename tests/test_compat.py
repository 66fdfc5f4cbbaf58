"""Every mend works, and every symptom it mends is still there without it."""

import functools
import json
import os
import pickle
import re
import subprocess
import sys
from collections import OrderedDict
from importlib import metadata, util
from pathlib import Path

import compat_toy
import numpy as np
import pytest
import torch
from compat_toy import Toy, ToyData, train, writes_metrics
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.optim import LinearLR
from mmengine.runner import CheckpointLoader, Runner, load_checkpoint
from mmengine.runner import checkpoint as checkpoint_module

from mmstop import compat
from mmstop.compat import distributed
from mmstop.compat.mmaction2 import skip_vindlu

compat.apply()

SCALAR = b'numpy._core' if int(np.__version__.split('.')[0]) > 1 else b'numpy.core'

# The symptoms in a process that never sees mmstop, one line of JSON.
SYMPTOMS = """
import json, os, sys, torch
from mmengine.dist import init_dist
from mmengine.logging import HistoryBuffer
from mmengine.model import MMDistributedDataParallel
from mmengine.runner import CheckpointLoader

def symptom(function, *args, **kwargs):
    try:
        return f'works: {function(*args, **kwargs)}'
    except Exception as error:
        return f'{type(error).__name__}: {error}'

def import_mmaction():
    import mmaction.models

evil, good, tests = sys.argv[1:]
sys.path.insert(0, tests)
from compat_toy import writes_metrics
torch.save({'message_hub': HistoryBuffer([1.0], [1])}, good)
os.environ.update(RANK='0', LOCAL_RANK='0', WORLD_SIZE='1')
torch.hub.set_dir(os.path.dirname(os.path.dirname(evil)))
found = {
    'drn': symptom(import_mmaction),
    'load': symptom(CheckpointLoader.load_checkpoint, good),
    'url': symptom(CheckpointLoader.load_checkpoint, f'http://x/{os.path.basename(evil)}'),
    'metrics': symptom(writes_metrics, os.path.dirname(good), rank=1),
    'launch': symptom(init_dist, 'pytorch', backend='gloo'),
}
store = torch.distributed.HashStore()
torch.distributed.init_process_group('gloo', store=store, rank=0, world_size=1)
model = torch.nn.Linear(1, 1)
found['wrap'] = symptom(MMDistributedDataParallel, model, device_ids=[0])
print(json.dumps(found))
"""

# MMAction2 whole, with the mends and nothing else of mmstop.
MMACTION = """
import sys, types
from pathlib import Path
mmstop = sys.modules['mmstop'] = types.ModuleType('mmstop')
mmstop.__path__ = [str(Path(sys.argv[1]).parents[1])]
from mmstop import compat
compat.apply()
assert 'mmaction.models' not in sys.modules, 'the mends are to stay light'
with compat.import_statistics_later():
    import mmaction.datasets, mmaction.models
    assert 'scipy.stats._stats_py' not in sys.modules
    from scipy.stats import norm
    assert norm.cdf(0) == 0.5
from mmaction.datasets.transforms.pose_transforms import get_mode
assert [found.tolist() for found in get_mode([3, 7, 7])] == [[7], [2]]
from mmaction.registry import DATASETS, MODELS
for registry, names in (
    (MODELS, 'Recognizer3D BMN TCANet DRN CLIPSimilarity VindLURetrieval'),
    (DATASETS, 'VideoDataset VideoTextDataset'),
):
    for name in names.split():
        assert registry.get(name) is not None, name
try:
    MODELS.build(dict(type='DRN', fpn=1))
except ImportError as error:
    print(error)
"""


class Payload:
    """What no checkpoint may do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f'touch {self.path}',)


class Call:
    """Pickle as the call of anything."""

    def __init__(self, function: object, *args: object) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple:
        return self.call


def run(cwd: Path, *command: object) -> subprocess.CompletedProcess:
    """Run Python in a directory of its own, blind to mmstop and to any GPU."""
    env = {**os.environ, 'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, *map(str, command)]
    return subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope='module')
def symptoms(tmp_path_factory: pytest.TempPathFactory) -> dict:
    cache = tmp_path_factory.mktemp('hub') / 'checkpoints'
    cache.mkdir()
    torch.save(Payload(cache / 'touched'), cache / 'evil.pth')
    files = cache / 'evil.pth', cache / 'good.pth', Path(__file__).parent
    result = run(cache, '-c', SYMPTOMS, *files)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    found['touched'] = (cache / 'touched').exists()
    return found


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Runner]:
    work_dir = tmp_path_factory.mktemp('trained')
    return work_dir, train(work_dir, epochs=4)


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('drn', "No module named 'mmaction.models.localizers.drn'"),
        ('load', 'Weights only load failed'),
        ('url', 'works: 0'),
        ('metrics', 'works: True'),
        ('launch', 'NVIDIA|CUDA'),
        ('wrap', 'device_ids'),
    ],
)
def test_symptom_is_still_there(symptoms: dict, name: str, message: str) -> None:
    assert re.search(message, symptoms[name]), symptoms[name]


def test_a_warm_up_of_one_step_never_ends_without_the_mend():
    """tests/test_tools.py trains with the mend."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    warm_up = LinearLR(optimizer, start_factor=0.01, end=1, by_epoch=False)
    for _ in range(3):
        optimizer.step()
        warm_up.step()
        assert optimizer.param_groups[0]['lr'] == 0.01


def test_urls_run_code_without_the_mend(symptoms: dict) -> None:
    assert symptoms['touched']


def test_all_of_mmaction_registers(tmp_path: Path) -> None:
    result = run(tmp_path, '-c', MMACTION, compat.__file__)
    assert result.returncode == 0, result.stderr
    assert 'install MMAction2 from source' in result.stdout


def test_apply_twice_is_apply_once() -> None:
    before = CheckpointLoader.load_checkpoint, list(sys.meta_path)
    compat.apply()
    assert before == (CheckpointLoader.load_checkpoint, sys.meta_path)


# -- checkpoints -----------------------------------------------------------------------


def test_resume_equals_one_run(trained: tuple, tmp_path: Path) -> None:
    work_dir, straight = trained
    halfway = str(work_dir / 'epoch_2.pth')
    resumed = train(tmp_path, epochs=4, load_from=halfway, resume=True)
    for name, weight in straight.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name
    for key in ('train/loss', 'train/lr'):
        history = resumed.message_hub.get_scalar(key)
        assert type(history.data[0]) is np.ndarray
        np.testing.assert_array_equal(
            history.data, straight.message_hub.get_scalar(key).data
        )
        assert history.statistics('mean') == history.mean()
    moments = [r.optim_wrapper.state_dict()['state'] for r in (straight, resumed)]
    assert torch.equal(*(m[0]['momentum_buffer'] for m in moments))


@pytest.mark.parametrize('numpy_name', [b'numpy.core', b'numpy._core'])
def test_checkpoint_of_either_numpy_loads(
    trained: tuple, tmp_path: Path, numpy_name: bytes
) -> None:
    checkpoint = compat_load(trained[0] / 'epoch_4.pth')
    checkpoint['extra'] = [np.arange(6, dtype='>f4').reshape(2, 3).T, np.zeros(0)]
    checkpoint['extra'] += [np.float64(0.5), np.bool_(True)]
    path = tmp_path / 'legacy.pth'
    torch.save(checkpoint, path, _use_new_zipfile_serialization=False)
    meta = pickle.dumps(ToyData.metainfo)  # as the Runner compares them
    data = path.read_bytes()
    assert SCALAR + b'.multiarray\nscalar\n' in data
    path.write_bytes(data.replace(SCALAR + b'.', numpy_name + b'.'))

    loaded = compat_load(path)
    for got, expected in zip(loaded['extra'], checkpoint['extra']):
        np.testing.assert_array_equal(got, expected)
        assert got.dtype == expected.dtype.newbyteorder('=')
    assert pickle.dumps(loaded['meta']['dataset_meta']) == meta
    assert b'mmstop' not in pickle.dumps(loaded)  # saved again, it is MMEngine's


def compat_load(path: object) -> dict:
    return CheckpointLoader.load_checkpoint(str(path), map_location='cpu')


def save_legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_pickle(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=4))


@pytest.mark.filterwarnings('ignore:Detected pickle protocol 4')
@pytest.mark.parametrize('save', [torch.save, save_legacy, save_pickle])
def test_payload_is_refused(tmp_path: Path, save: object) -> None:
    evil = tmp_path / 'evil.pth'
    save({'state_dict': Payload(tmp_path / 'touched')}, evil)
    with pytest.raises(compat.CheckpointError) as error:
        compat_load(evil)
    assert str(evil) in str(error.value)
    assert 'asks for posix.system. ' in str(error.value)
    assert "torch.save({'state_dict': model.state_dict()}" in str(error.value)
    assert error.value.__context__ is None  # torch's advice is weights_only=False
    assert not (tmp_path / 'touched').exists()


@pytest.mark.parametrize('way', ['load_from', 'resume', 'model', 'mmaction', 'url'])
@pytest.mark.parametrize('env', ['', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'])
def test_no_way_runs_a_payload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, env: str
) -> None:
    if env:
        monkeypatch.setenv(env, '1')
    before = dict(os.environ), set(torch.serialization.get_safe_globals())
    evil = tmp_path / 'checkpoints' / 'evil.pth'
    evil.parent.mkdir()
    torch.save(Payload(tmp_path / 'touched'), evil)
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path))  # holds evil.pth already

    with pytest.raises(
        compat.CheckpointError, match=r'evil\.pth asks for posix\.system'
    ):
        if way in ('load_from', 'resume'):
            train(tmp_path, 1, load_from=str(evil), resume=way == 'resume')
        elif way == 'model':
            load_checkpoint(Toy(), str(evil))
        elif way == 'mmaction':
            from mmaction.apis import init_recognizer

            config = Config({'model': {'type': 'CompatToy'}})
            init_recognizer(config, str(evil), device='cpu')
        else:
            compat_load('http://nowhere.invalid/evil.pth')
    assert not (tmp_path / 'touched').exists()
    assert before == (dict(os.environ), set(torch.serialization.get_safe_globals()))


def test_later_mmengine_cannot_open_the_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MMEngine's main branch loads local files with ``weights_only=False``."""

    later: dict = {}
    exec(
        'def load_from_local(filename, map_location):\n'
        '    return torch.load(filename, map_location, weights_only=False)',
        vars(checkpoint_module),  # where it looks for torch
        later,
    )
    monkeypatch.setitem(CheckpointLoader._schemes, '', later['load_from_local'])
    torch.save(Payload(tmp_path / 'touched'), tmp_path / 'evil.pth')
    with pytest.raises(compat.CheckpointError, match=r'posix\.system'):
        compat_load(tmp_path / 'evil.pth')
    assert not (tmp_path / 'touched').exists()


@pytest.mark.parametrize(
    ('content', 'asked'),
    [
        (Call(getattr, OrderedDict, 'fromkeys'), 'collections.OrderedDict.fromkeys'),
        (
            Call(getattr, HistoryBuffer, '__init__'),
            'mmengine.logging.history_buffer.HistoryBuffer.__init__',
        ),
        (Call(np.dtype, 'O'), "numpy.dtype('O')"),
        (Call(eval, '1'), 'eval'),
        (Toy(), 'Toy'),
    ],
)
def test_refusal_names_what_was_asked(
    tmp_path: Path, content: object, asked: str
) -> None:
    torch.save(content, tmp_path / 'evil.pth')
    with pytest.raises(compat.CheckpointError, match=r'evil\.pth asks for ') as error:
        compat_load(tmp_path / 'evil.pth')
    assert f'{asked}. ' in str(error.value)


def test_array_from_a_file_cannot_hold_pointers(tmp_path: Path) -> None:
    """With numpy's own ndarray allowed, looking at this object kills the process."""
    torch.save(Call(np.ndarray, (1,), 'O', b'A' * 8), tmp_path / 'evil.pth')
    assert compat_load(tmp_path / 'evil.pth').size == 0


def test_what_others_allow_stays_allowed_but_ours_wins(tmp_path: Path) -> None:
    before = torch.serialization.get_safe_globals()
    # torch keeps a set: with nine of one name, any may be the one in force
    getattrs = [functools.partial(getattr) for _ in range(9)]
    theirs = [Call, *((used, 'builtins.getattr') for used in getattrs)]
    torch.serialization.add_safe_globals(theirs)
    try:
        torch.save(Call(Call, 1), tmp_path / 'call.pth')
        assert isinstance(compat_load(tmp_path / 'call.pth'), Call)
        torch.save(Call(getattr, OrderedDict, 'fromkeys'), tmp_path / 'evil.pth')
        with pytest.raises(compat.CheckpointError, match='fromkeys'):
            compat_load(tmp_path / 'evil.pth')
        assert set(torch.serialization.get_safe_globals()) == {*before, *theirs}
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


@pytest.mark.parametrize('save', [torch.save, save_legacy])
@pytest.mark.parametrize('kept', [0.05, 0.5, 0.99])
def test_truncated_file_is_named(tmp_path: Path, save: object, kept: float) -> None:
    path = tmp_path / 'short.pth'
    save({'state_dict': {'weight': torch.randn(50, 50)}}, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(compat.CheckpointError, match='cannot be read: .') as error:
        compat_load(path)
    assert str(path) in str(error.value)
    assert 'Expected a whole file as torch.save writes it' in str(error.value)


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (b'', 'is empty. Expected a whole file'),
        (b'\n<!DOCTYPE html>\n<p>404', "it starts with '<!DOCTYPE html>'. Expected"),
        (b'version https://git-lfs', "it starts with 'version https://git-lfs'"),
    ],
)
def test_what_is_no_checkpoint_is_named(
    tmp_path: Path, data: bytes, message: str
) -> None:
    path = tmp_path / 'page.pth'
    path.write_bytes(data)
    with pytest.raises(compat.CheckpointError) as error:
        compat_load(path)
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)


def test_damaged_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / 'good.pth'
    torch.save(torch.zeros(1), path)
    path.write_bytes(path.read_bytes().replace(b'good/data.pkl', b'goodbyte.pkl_'))
    with pytest.raises(compat.CheckpointError, match=r'good\.pth cannot be read: .+'):
        compat_load(path)


@pytest.mark.filterwarnings('ignore::FutureWarning', 'ignore::UserWarning')
def test_torchscript_is_named(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(1, 1)).save(tmp_path / 'script.pt')
    with pytest.raises(compat.CheckpointError, match='script.pt is a TorchScript'):
        compat_load(tmp_path / 'script.pt')


def test_errors_that_are_not_the_files_pass(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='can not be found'):
        compat_load(tmp_path / 'absent.pth')
    torch.save(torch.zeros(1), tmp_path / 'good.pth')
    with pytest.raises(RuntimeError, match='nonsense'):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'good.pth'), 'nonsense')
    with pytest.raises(KeyError):
        compat_load('openmmlab://no_such_model')


# -- transformers ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ('transformers', 'mmaction2', 'is_kept'),
    [
        ('4.57.6', '1.2.0', False),
        ('5.23.0', '1.2.0', False),
        ('4.55.4', '1.2.0', True),
        ('5.23.0', '1.3.0', True),
        (None, '1.2.0', True),
    ],
)
def test_vindlu_is_skipped_beside_new_transformers(
    monkeypatch: pytest.MonkeyPatch, transformers: str, mmaction2: str, is_kept: bool
) -> None:
    import mmaction
    from mmaction.utils import dependency

    def version(name: str) -> str:
        if transformers is None:
            raise metadata.PackageNotFoundError(name)
        return transformers

    monkeypatch.setattr(metadata, 'version', version)
    monkeypatch.setattr(mmaction, '__version__', mmaction2)
    monkeypatch.setattr(dependency, 'WITH_MULTIMODAL', True)
    skip_vindlu()
    assert dependency.WITH_MULTIMODAL is is_kept


def test_vindlu_still_imports_what_transformers_dropped() -> None:
    package = Path(util.find_spec('mmaction').origin).parent
    source = package / 'models' / 'multimodal' / 'vindlu' / 'modeling_bert.py'
    assert re.search(
        r'from transformers.modeling_utils import[^)]*apply_chunking_to_forward',
        source.read_text(),
    )


# -- two processes ---------------------------------------------------------------------


def test_statistics_are_still_imported_for_one_function() -> None:
    package = Path(util.find_spec('mmaction').origin).parent
    source = package / 'datasets' / 'transforms' / 'pose_transforms.py'
    assert re.findall('.*scipy.stats.*', source.read_text()) == [
        'from scipy.stats import mode'
    ]


def test_the_first_process_writes_the_metrics(tmp_path: Path) -> None:
    assert writes_metrics(tmp_path, rank=0) and not writes_metrics(tmp_path, rank=1)


@pytest.mark.slow
def test_two_cpu_processes_equal_one(trained: tuple, tmp_path: Path) -> None:
    launch = '-m torch.distributed.run --standalone --nproc_per_node 2'.split()
    result = run(tmp_path, *launch, compat_toy.__file__, compat.__file__, tmp_path)
    assert result.returncode == 0, result.stderr
    assert (result.stdout + result.stderr).count('using gloo') == 1
    first, second = (torch.load(tmp_path / f'rank{i}.pth') for i in range(2))
    for name, weight in trained[1].model.state_dict().items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], weight, rtol=0, atol=1e-6)


def test_a_gpu_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(*args: object, **kwargs: object) -> None:
        calls.append((args, kwargs))

    calls: list = []
    monkeypatch.setattr(distributed, 'get_device', lambda: 'cuda')
    distributed.launch_on_cpu(seen, 'nccl', timeout=1)
    distributed.wrap_on_cpu(seen, 'self', module='model', device_ids=[0])
    assert calls == [
        (('nccl',), {'init_backend': 'torch', 'timeout': 1}),
        (('self',), {'module': 'model', 'device_ids': [0]}),
    ]
