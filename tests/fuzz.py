"""Property tests: a few examples in the fast suite, many in the slow one."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import SearchStrategy, integers

seeds = integers(0, 2**32 - 1)


def fuzz(many: int, few: int = 3, **strategies: SearchStrategy) -> Callable:
    """Turn a property into a fast test, and into a slow one with ``many`` examples.

    Both begin with the property's explicit ones (``hypothesis.example``).
    """

    def decorate(check: Callable) -> Callable:
        @pytest.mark.parametrize(
            'examples', [few, pytest.param(many, marks=pytest.mark.slow)]
        )
        def test(examples: int) -> None:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)  # tiny tensors only wait for each other
            try:
                settings(max_examples=examples)(given(**strategies)(check))()
            finally:
                torch.set_num_threads(threads)

        return test

    return decorate


def draws(seed: int) -> Callable[..., torch.Tensor]:
    """Return a ``randn`` of its own."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *size, **options: torch.randn(*size, generator=generator, **options)
