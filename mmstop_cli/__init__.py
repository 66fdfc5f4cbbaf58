"""The command ``mmstop``: one module per subcommand.

A module has a docstring: its first line is the summary of the subcommand, and the whole
is the help. It has two functions: ``add_arguments(parser)``, and ``run(args)``, which
prints the result on stdout. ``run`` raises user mistakes as a ``ValueError``,
``OSError``, ``ImportError`` or ``CheckpointError``, with a message that names the fault
and the remedy.

Importing any part of ``mmstop`` registers all of them, which takes PyTorch and seconds.
So the command is a package of its own, whose modules import ``mmstop`` within ``run``:
help and usage errors come at once.
"""

import argparse
import gc
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Optional

__all__ = ['COMMANDS', 'import_mmstop', 'main']

COMMANDS = (
    'classify',
    'embed',
    'export',
    'publish',
    'search',
    'serve',
    'trace',
)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run a subcommand; return 0, or 2 if the user needs to change something."""
    args = _parser().parse_args(argv)
    import_mmstop()
    from mmengine.logging import MMLogger

    from mmstop.compat import CheckpointError
    from mmstop.text import one_line

    # MMEngine's current logger, the last one created, would write to stdout, where the
    # result goes.
    if not MMLogger.check_instance_created('mmstop'):
        MMLogger.get_instance('mmstop', log_level='ERROR')
    try:
        args.run(args)
    except (ValueError, OSError, ImportError, CheckpointError) as error:
        print(f'error: {one_line(error)}', file=sys.stderr)
        return 2
    return 0


def import_mmstop() -> None:
    """Import the package without looking for garbage, which would take a fifth longer.

    Its modules stay until the process ends. So the garbage collector shall pass over
    them later, too, and at the end, where it would take another second.
    """
    if 'mmstop' not in sys.modules:
        gc.disable()
        import mmstop  # noqa: F401

        gc.freeze()
        gc.enable()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mmstop', description='Ask a trained STOP, or CLIP, about videos.'
    )
    commands = parser.add_subparsers(metavar='COMMAND', required=True)
    for name in COMMANDS:
        module = import_module(f'{__name__}.{name}')
        text = module.__doc__ or ''
        command = commands.add_parser(
            name,
            help=text.splitlines()[0],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser
