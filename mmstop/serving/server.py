"""Streamlit, as the server of one page."""

import socket
from pathlib import Path
from typing import Any, Optional

from streamlit.web import bootstrap

from .desk import Desk

__all__ = ['serve', 'served']

PAGE = Path(__file__).with_name('page.py')
_desk: Optional[Desk] = None  # Streamlit runs the page without arguments


def served() -> Desk:
    """Return what the page is to ask."""
    assert _desk is not None, 'the page is run by mmstop serve'
    return _desk


def serve(desk: Desk, host: str = '127.0.0.1', port: int = 8501) -> None:
    """Serve the page until the process is interrupted.

    Args:
        host: address to listen on; '0.0.0.0' lets in the whole network.

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
        'server_fileWatcherType': 'none',
        'browser_gatherUsageStats': False,
        'client_toolbarMode': 'minimal',
        'client_showErrorDetails': 'none',
        'logger_hideWelcomeMessage': True,
    }
    bootstrap.load_config_options(options)
    print(f'http://{host}:{port}', flush=True)
    bootstrap.run(str(PAGE), False, [], options)


def _check_address(host: str, port: int) -> None:
    """Find out before Streamlit does, which would leave the process."""
    try:
        socket.create_server((host, port)).close()
    except (OSError, OverflowError) as error:
        raise OSError(
            f'cannot listen on {host}:{port} ({error}); choose another --host or --port'
        ) from None
