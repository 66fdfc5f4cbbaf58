"""Serve a page that searches an index and classifies videos dropped on it.

    mmstop serve videos.index --config configs/stop_msrvtt.py --checkpoint best.pth

prints the address of the page. The model must be the one that made the index (mmstop
embed). The page shows the videos in the index and no other files. Clips in codecs that
browsers do not play are converted to H.264 copies in the folder INDEX.clips, which may
be deleted. Anyone who can reach the page can watch the videos: there is no password.
Only this machine can reach it unless --host says otherwise.
"""

import argparse
from importlib.util import find_spec

from .shared import add_model_arguments, count, load_model

PACKAGES = ('streamlit', 'av')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('index', help='what mmstop embed wrote')
    add('--host', default='127.0.0.1', help='address to listen on (%(default)s)')
    add('--port', type=count, default=8501, help='(%(default)s)')
    add(
        '--allow-host',
        nargs='+',
        default=[],
        metavar='NAME',
        help='names by which browsers may call the page, besides those of this '
        "machine: a proxy's, or *.example.com; calls by others are refused",
    )
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Serve until the process is interrupted.

    Raises:
        ImportError: a package is missing.
        OSError: the index does not exist, or the server cannot listen on the address.
        ValueError: a different model made the index.
    """
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise ImportError(
            f"serving needs {' and '.join(missing)}: pip install 'mmstop[serve]'"
        )
    from mmstop.apis import VideoIndex
    from mmstop.serving import Desk, serve

    VideoIndex(args.index).close()  # before loading the model, which is slow
    serve(Desk(load_model(args), args.index), args.host, args.port, args.allow_host)
