"""How the property tests draw their examples, and what is imported first.

By default the same ones every time. Fresh ones, from a seed that may be given, come by

    python -m pytest -m slow tests/test_fuzz_*.py \
        --hypothesis-profile=fresh --hypothesis-seed=1

and one that fails is added to its test as an ``@example``.
"""

import av  # noqa: F401  (before decord, whose old libvpx and libx264 it would use)
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
