"""The Hugging Face hub without a network: files of its cache are used, and others are refused at once."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

CONNECT_SECONDS = 3.0


@contextmanager
def offline_if_unreachable() -> Iterator[None]:
    """Context in which the hub is in offline mode (`HF_HUB_OFFLINE`) if its server cannot be reached.

    Without it, each missing file costs six attempts with growing pauses, 24 s. A server behind a proxy is not tried.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _is_reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _is_reachable(url: str) -> bool:
    address = urlsplit(url)
    host = address.hostname or ""
    if address.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
        return True
    try:
        port = address.port or (80 if address.scheme == "http" else 443)
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except OSError:
        return False
    return True
