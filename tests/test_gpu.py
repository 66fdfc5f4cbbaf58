"""What needs a GPU: run by ``make test-gpu``, skipped without CUDA.

The tiny models are those of the CPU tests, which say what is right; here it is that a
GPU computes the same, in every precision, twice alike, and keeps what it caches.
"""

import os
import sys

import pytest
import torch
import torch.nn.functional as F
from distributed_step import (
    BACKBONE,
    CAPTIONS,
    CLASSES,
    KEPT,
    TASKS,
    batch,
    build,
    step,
)
from mmengine.model import MMDistributedDataParallel
from test_methods import METHODS, name_of, text_share, trained_of
from tiny import TEXT, still, wild
from tiny_run import ROOT, run, write_tiny_retrieval, write_tiny_run
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmstop.compat.reader import read
from mmstop.registry import MODELS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU with CUDA'),
]
TRAIN = ROOT / 'tools/train.py'
FUSED = [
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
]
every_method = pytest.mark.parametrize('method', METHODS, ids=name_of)


@pytest.fixture(autouse=True)
def whole_float32():
    """By default, PyTorch rounds the inputs of convolutions to TF32."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def videos():
    """Two that change and a still one, so that STOP masks its padding."""
    return torch.cat([wild(2, 5), still(1, 5)])


# --- Every method -------------------------------------------------------------------


@every_method
def test_the_gpu_computes_what_the_cpu_computes(method):
    model, found = method.build(in_training=True), []
    for device in ('cpu', 'cuda'):
        model = model.to(device)
        model.zero_grad()
        out = model(videos().to(device))
        (out.sum() + text_share(model)).backward()
        grads = [p.grad.cpu() for p in trained_of(model).values() if p.grad is not None]
        found.append([out.detach().cpu(), *grads])
    for slow, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-3, rtol=1e-2)
    torch.testing.assert_close(found[1][0], found[0][0], atol=1e-4, rtol=1e-3)


@every_method
@pytest.mark.parametrize(
    'dtype', [torch.float32, torch.float16, torch.bfloat16], ids=str
)
def test_a_step_in_every_precision(method, dtype):
    """Under the loss scaler: all gradients finite, all that learns has moved."""
    model = method.build(in_training=True).cuda().train()
    before = {name: p.clone() for name, p in trained_of(model).items()}
    optimizer = torch.optim.AdamW(trained_of(model).values(), lr=1e-3)
    scaler = torch.amp.GradScaler('cuda', init_scale=2.0**8)
    with torch.autocast('cuda', dtype, enabled=dtype != torch.float32):
        out = model(videos().cuda())
        prompts = text_share(model)
    loss = (out.float() * torch.linspace(-1, 1, out.shape[1]).cuda()).sum() + prompts
    scaler.scale(loss).backward()
    scaler.step(optimizer)  # leaves the step out if a gradient is not finite
    scaler.update()
    assert out.isfinite().all() and scaler.get_scale() == 2.0**8
    for name, p in trained_of(model).items():
        if p.grad is not None and p.grad.any():
            assert not torch.equal(p, before[name]), name


@every_method
def test_masks_keep_the_fused_kernels(method):
    """PyTorch raises if a mask, or another argument, leaves only whole scores."""
    model = method.build(in_training=True).cuda().train()
    with sdpa_kernel(FUSED), torch.autocast('cuda', torch.bfloat16):
        out = model(videos().cuda())
    out.float().sum().backward()


@pytest.mark.parametrize('method', [METHODS[0], METHODS[1], METHODS[-4]], ids=name_of)
def test_compiles_whole(method):
    torch._dynamo.reset()
    model = method.build(in_training=True).cuda()
    compiled = torch.compile(model, fullgraph=True)
    for video in (wild(2, 5), still(2, 5).contiguous()):
        video = video.cuda()
        torch.testing.assert_close(compiled(video), model(video), atol=1e-4, rtol=1e-3)
        compiled(video).sum().backward()


# --- Captions, sentences and buffers ------------------------------------------------


@pytest.mark.parametrize('task', TASKS)
def test_the_loss_of_each_task_is_that_of_the_cpu(task):
    """With what is cached made on the CPU, and used on the GPU."""
    slow, fast = build(task), build(task).cuda()
    inputs, samples = batch(task)
    expected = step(slow, task, torch.float32, 5)
    if isinstance(inputs, dict):
        inputs = {key: value.cuda() for key, value in inputs.items()}
    else:
        inputs = inputs.cuda()
        samples = [sample.to('cuda') for sample in samples]
    losses = fast(inputs, samples, mode='loss')
    loss = losses.get('loss_cls', losses.get('loss_contrastive'))
    loss.backward()
    torch.testing.assert_close(loss.cpu(), expected['loss'], atol=1e-4, rtol=1e-3)


def test_everything_is_on_the_device_and_comes_back():
    head = MODELS.build(TASKS['recognition']['cls_head']).eval()
    x = F.normalize(torch.randn(2, 32), dim=1)
    expected = head(x)
    on_gpu = head.cuda()(x.cuda())
    assert on_gpu.device.type == 'cuda' and on_gpu.shape == (2, len(CLASSES))
    torch.testing.assert_close(on_gpu.cpu(), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(head.cpu()(x), expected)
    for task in (BACKBONE, TEXT):
        model = MODELS.build(task).cuda()
        kept = [*model.parameters(), *model.buffers()]
        assert {p.device.type for p in kept} == {'cuda'}


def test_cached_captions_are_those_of_the_text_tower():
    model = build(KEPT).cuda()
    tokens = MODELS.build(TEXT).tokenize(CAPTIONS)
    model.keep_captions(tokens)
    cached = model._recall(tokens.cuda())
    assert cached.device.type == 'cuda'
    with torch.no_grad():
        torch.testing.assert_close(cached, model.text(tokens.cuda()), atol=1e-4, rtol=0)


# --- Runs ---------------------------------------------------------------------------


def weights_of(folder):
    (checkpoint,) = folder.glob('epoch_2.pth')
    return read(checkpoint)['state_dict']


def train(config, work_dir, *options):
    done = run(sys.executable, TRAIN, config, '--work-dir', work_dir, *options)
    assert done.returncode == 0, done.stderr
    return work_dir


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize('write', [write_tiny_run, write_tiny_retrieval])
@pytest.mark.parametrize('amp', [[], ['--amp']], ids=['float32', 'amp'])
def test_a_deterministic_run_is_repeated_bit_by_bit(write, amp, tmp_path):
    """Each in a process of its own, where cuBLAS is told before CUDA starts."""
    config = write(tmp_path)
    options = ['--seed', '1', '--deterministic', *amp]
    runs = [train(config, tmp_path / name, *options) for name in ('one', 'two')]
    assert_equal(*map(weights_of, runs))


def test_a_resumed_run_equals_an_undisturbed_one(tmp_path):
    config = write_tiny_run(tmp_path)
    options = ['--seed', '1', '--deterministic']
    whole = train(config, tmp_path / 'whole', *options)
    once = ['--cfg-options', 'train_cfg.max_epochs=1']
    train(config, tmp_path / 'parts', *options, *once)
    parts = train(config, tmp_path / 'parts', *options, '--resume')
    assert_equal(weights_of(parts), weights_of(whole))


@pytest.fixture
def nccl(monkeypatch):
    """A process group of one process."""
    for name, value in dict(MASTER_ADDR='127.0.0.1', MASTER_PORT='29517').items():
        monkeypatch.setitem(os.environ, name, value)
    torch.distributed.init_process_group('nccl', rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_nccl_with_one_process_gives_the_gradients_without(nccl):
    expected = step(build('recognition'), 'recognition', torch.float32, 5)
    model = MMDistributedDataParallel(
        build('recognition').cuda(), device_ids=[0], find_unused_parameters=False
    )
    inputs, samples = batch('recognition')
    samples = [sample.to('cuda') for sample in samples]
    loss = model(inputs.cuda(), samples, mode='loss')['loss_cls']
    loss.backward()
    torch.testing.assert_close(loss.cpu(), expected['loss'], atol=1e-4, rtol=1e-3)
    for name, p in trained_of(model.module).items():
        torch.testing.assert_close(
            p.grad.cpu(), expected[name], atol=1e-3, rtol=1e-2, msg=name
        )
