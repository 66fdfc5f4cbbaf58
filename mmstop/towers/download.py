"""Download the weights behind an open_clip tag."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Optional
from urllib.parse import urlsplit
from urllib.request import getproxies

import open_clip
from huggingface_hub import constants

from mmstop.errors import ConfigError

__all__ = ['download', 'offline', 'unreachable']

PATIENCE = 5  # seconds to wait for a connection


def download(arch: str, weights: str, tag: dict) -> Path:
    """Return the file of a tag, from open_clip's cache or the network.

    Args:
        tag: open_clip's entry of ``weights`` for ``arch``.

    Raises:
        ConfigError: the file is not in the cache and cannot be downloaded.
    """
    repository = tag.get('hf_hub', '').rpartition('/')[0]
    url = f'{constants.ENDPOINT}/{repository}' if repository else tag.get('url', '')
    fault = unreachable(url)
    try:
        with offline(fault is not None):
            return Path(open_clip.download_pretrained(tag))
    except Exception as error:
        raise ConfigError(
            f'weights={weights!r} of {arch} could not be downloaded '
            f'({fault or error}); fetch the weights from {url} where there is a '
            f'network, and give its path as weights=FILE (on command lines: '
            f'--cfg-options weights=FILE, or --weights FILE beside --arch)'
        ) from error


def unreachable(url: str) -> Optional[str]:
    """Say why a server is unreachable; None if it is reachable or a proxy is set."""
    parts = urlsplit(url)
    if not parts.hostname or parts.scheme in getproxies():
        return None
    port = parts.port or {'http': 80}.get(parts.scheme, 443)
    try:
        socket.create_connection((parts.hostname, port), PATIENCE).close()
    except OSError as error:
        return f'{parts.hostname} cannot be reached: {error}'
    return None


@contextmanager
def offline(offline: bool) -> Iterator[None]:
    """Limit the Hugging Face Hub to its cache, or leave it as it was set.

    Otherwise it would retry each of three files for about twenty seconds.
    """
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or offline
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
