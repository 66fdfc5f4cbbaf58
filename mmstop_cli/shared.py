"""Arguments and output that subcommands share."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any, Optional

__all__ = [
    'add_cfg_options',
    'add_json_argument',
    'add_model_arguments',
    'add_reading_arguments',
    'count',
    'load_model',
    'print_table',
    'read_config',
    'report_unread',
]


class KeyValues(argparse.Action):
    """Read KEY=VALUE pairs as ``tools/test.py`` does."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: Optional[str] = None,
    ) -> None:
        from mmstop.config import KeyValues

        pairs = KeyValues(self.option_strings, self.dest, nargs='+')
        pairs(parser, namespace, values, option_string)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Let the user choose the model: trained, published, or CLIP alone."""
    group = parser.add_argument_group('model')
    add = group.add_argument
    add('--model', help='what mmstop publish wrote: a folder, or OWNER/NAME on the hub')
    add('--config', help='config file of a recognizer or a retriever')
    add('--checkpoint', help='what was trained; none for a zero-shot config')
    add_cfg_options(group)
    add(
        '--arch',
        default='ViT-B-32-quickgelu',
        help='without --config or --model: take this CLIP of open_clip as it is '
        '(%(default)s)',
    )
    add(
        '--weights',
        help='with --arch: a tag of open_clip or a weights file (openai); with '
        '--model: the file of the CLIP below',
    )
    add('--num-frames', type=count, default=12, help='with --arch (%(default)s)')
    add('--device', default='auto', help='auto, cpu, cuda:0, ... (%(default)s)')
    add(
        '--decoder',
        help='pyav (default) gives exact frames; decord is for comparisons',
    )


def add_cfg_options(parser: argparse._ActionsContainer) -> None:
    """Let the user change the config."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=KeyValues,
        metavar='KEY=VALUE',
        help='change the config, as in tools/test.py',
    )


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """Let the user choose how videos are read."""
    add = parser.add_argument
    add('--batch-size', type=count, default=8, help='videos at a time (%(default)s)')
    add(
        '--num-workers',
        type=count,
        default=1,
        help='processes that read ahead (%(default)s)',
    )


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--json', action='store_true', help='print JSON, not a table')


def count(text: str) -> int:
    """Read a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f'{text} is less than 1')
    return number


def load_model(args: argparse.Namespace) -> Any:
    """Build the ``VideoCLIP`` that :func:`add_model_arguments` asked for.

    Raises:
        ValueError: the arguments contradict each other, or ``VideoCLIP`` refuses.
        FileNotFoundError: a file is missing.
    """
    from mmstop.apis import VideoCLIP

    if args.config is not None:
        if args.model:
            raise ValueError('--config and --model name two models; give one of them')
        return VideoCLIP.from_config(
            args.config, args.checkpoint, args.device, args.decoder, args.cfg_options
        )
    if args.checkpoint or args.cfg_options:
        raise ValueError('--checkpoint and --cfg-options need --config')
    if args.model:
        return VideoCLIP.from_pretrained(
            args.model, args.device, args.decoder, args.weights
        )
    weights = args.weights or 'openai'
    return VideoCLIP.from_clip(
        args.arch, weights, args.num_frames, args.device, args.decoder
    )


def read_config(args: argparse.Namespace) -> Any:
    """Read ``args.config`` with its options and check it and ``args.checkpoint``.

    Raises:
        ConfigError: one of them is invalid.
    """
    from mmstop.config import load_config
    from mmstop.config_check import check_config

    cfg = load_config(args.config, args.cfg_options)
    cfg.load_from = args.checkpoint
    check_config(cfg, [])
    return cfg


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows with aligned columns."""
    from mmstop.text import printable

    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown)]
    for row in shown:
        cells = (cell.ljust(width) for cell, width in zip(row, widths))
        print('  '.join(cells).rstrip())


def report_unread(errors: dict[str, str]) -> None:
    """Say on stderr which videos could not be read, and why."""
    from mmstop.text import printable

    for path, reason in errors.items():
        print(printable(f'{path} cannot be read: {reason}'), file=sys.stderr)
