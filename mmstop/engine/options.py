"""Config changes from the command line."""

import argparse
from collections.abc import Sequence
from typing import Any, Optional, Union

from mmengine.config import DictAction

__all__ = ['KeyValues']


class KeyValues(DictAction):
    """MMEngine's KEY=VALUE pairs, which report anything else as a usage error."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Union[str, Sequence[Any], None],
        option_string: Optional[str] = None,
    ) -> None:
        try:
            super().__call__(parser, namespace, values, option_string)
        except (AssertionError, IndexError, ValueError) as error:
            raise argparse.ArgumentError(
                self, f'expected KEY=VALUE, got {values} ({error})'
            ) from None
