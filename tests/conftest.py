"""How property tests draw examples, what surrounds a test, and what is not done twice.

By default, examples are the same ones every time. Fresh ones, from a seed that may be
given, come by

    python -m pytest -m slow tests/test_fuzz_*.py \
        --hypothesis-profile=fresh --hypothesis-seed=1

and one that fails is added to its test as an ``@example``.
"""

import functools
import gc
import time
from collections.abc import Callable, Iterator
from typing import Any

import av  # noqa: F401  (before decord, whose old libvpx and libx264 it would use)
import mmengine.config.config
import mmengine.runner.runner
import open_clip
import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    'repeatable',
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],  # models are slow to build
)
settings.register_profile(
    'fresh', settings.get_profile('repeatable'), derandomize=False
)
settings.load_profile('repeatable')


def remember(function: Callable, key: Callable = str) -> Callable:
    """Call a function once for each key of its first argument, and its options."""
    made: dict[tuple[str, str], Any] = {}

    def remembered(first: str, **options: Any) -> Any:
        name = key(first), str(options)
        if name not in made:
            made[name] = function(first, **options)
        return made[name]

    return remembered


# Hundreds of tests build towers; each run formats its config five times, and asks which
# compilers there are.
mmengine.runner.runner.collect_env = functools.cache(mmengine.runner.runner.collect_env)
mmengine.config.config.FormatCode = remember(mmengine.config.config.FormatCode)
open_clip.get_tokenizer = remember(
    open_clip.get_tokenizer, lambda arch: f'{arch}: {open_clip.get_model_config(arch)}'
)


def pytest_collection_finish() -> None:
    """Keep the collector, which each data set calls, from what stays until the end."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def gradients_stay_on() -> Iterator[None]:
    """Name the test that would make later ones fail."""
    yield
    on = torch.is_grad_enabled()
    torch.set_grad_enabled(True)
    assert on, 'gradients are off after this test'


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let what compares runs call the tools in this process; list those that ran."""
    import variants  # here, so that pytest rewrites the assertions of test_tools first
    from test_tools import test, train

    ran = []

    def run(args: Any, work_dir: Any, tool: str, *arguments: str) -> None:
        ran.append(tool)
        time.sleep(1 - time.time() % 1)  # MMEngine tells runs apart by the second
        assert {'train.py': train, 'test.py': test}[tool].main(arguments) == 0

    monkeypatch.setattr(variants, 'run', run)
    return ran
