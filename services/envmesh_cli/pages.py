"""Pages that processes of the mesh serve over HTTP."""

from __future__ import annotations

import urllib.request
from urllib.parse import urlsplit

from envmesh.access import is_loopback

__all__ = ["read_page"]

MOST_BYTES = 32 << 20


def read_page(url: str, *, seconds: float) -> bytes:
    """What is at ``url``, at most 32 MiB. It takes the proxy that the environment names, but none to this machine
    itself.

    Raises:
        OSError: it cannot be had; ``urllib.error.URLError`` is one.
    """
    proxies = urllib.request.ProxyHandler({} if is_loopback(urlsplit(url).netloc) else None)
    with urllib.request.build_opener(proxies).open(url, timeout=seconds) as answer:
        page: bytes = answer.read(MOST_BYTES)
    return page
