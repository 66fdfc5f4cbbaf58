"""How the property tests draw their examples, and what comes before and after a test.

By default the same ones every time. Fresh ones, from a seed that may be given, come by

    python -m pytest -m slow tests/test_fuzz_*.py \
        --hypothesis-profile=fresh --hypothesis-seed=1

and one that fails is added to its test as an ``@example``.
"""

from collections.abc import Iterator

import av  # noqa: F401  (before decord, whose old libvpx and libx264 it would use)
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


@pytest.fixture(autouse=True)
def gradients_stay_on() -> Iterator[None]:
    """Name the test that would make later ones fail."""
    yield
    on = torch.is_grad_enabled()
    torch.set_grad_enabled(True)
    assert on, 'gradients are off after this test'
