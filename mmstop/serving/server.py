"""Serve the page with Streamlit."""

import socket
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any, Optional

from streamlit.web import bootstrap

from .backend import Desk

__all__ = ['serve', 'served']

LOOPBACK = ('localhost', '127.0.0.1', '::1')
ANY = ('0.0.0.0', '::', '')  # hosts that mean all addresses of this machine
PAGE = Path(__file__).with_name('page.py')
_desk: Optional[Desk] = None  # Streamlit runs the page without arguments


def served() -> Desk:
    """Return the backend of the page."""
    assert _desk is not None, 'the page is run by mmstop serve'
    return _desk


def serve(
    desk: Desk, host: str = '127.0.0.1', port: int = 8501, names: Sequence[str] = ()
) -> None:
    """Serve the page until the process is interrupted.

    Only requests to an address or name of this machine are answered. Any other name may
    belong to an attacker who points it here, so that their page can access this one
    (DNS rebinding).

    Args:
        host: address to listen on; '0.0.0.0' opens the page to the whole network.
        names: other host names for the page, such as a proxy's.

    Raises:
        OSError: the address cannot be listened on.
    """
    global _desk
    _desk = desk
    _check_address(host, port)
    options: dict[str, Any] = {
        'server_address': host,
        'server_port': port,
        'server_headless': True,
        'server_allowedHosts': [*_own_names(host), *names],
        'server_fileWatcherType': 'none',
        'browser_gatherUsageStats': False,
        'client_toolbarMode': 'minimal',
        'client_showErrorDetails': 'none',
        'logger_hideWelcomeMessage': True,
    }
    bootstrap.load_config_options(options)
    print(f'http://{host}:{port}', flush=True)
    # Streamlit says that it stops, and would not stop if nobody read that any more.
    with redirect_stdout(sys.stderr):
        bootstrap.run(str(PAGE), False, [], options)


def _own_names(host: str) -> list[str]:
    """List the names and addresses under which a page at ``host`` is reached."""
    if host not in ANY:
        return [host, *LOOPBACK]
    name = socket.gethostname()
    addresses: list[str] = []
    with suppress(OSError):  # a machine may not know its own name
        addresses = [str(info[4][0]) for info in socket.getaddrinfo(name, None)]
    return list(dict.fromkeys([*LOOPBACK, name, socket.getfqdn(), *addresses]))


def _check_address(host: str, port: int) -> None:
    """Check the address first, since Streamlit would exit the process."""
    try:
        socket.create_server((host, port)).close()
    except (OSError, OverflowError) as error:
        raise OSError(
            f'cannot listen on {host}:{port} ({error}); choose another --host or --port'
        ) from None
