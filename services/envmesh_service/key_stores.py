"""Where key material is kept: directories of a disk that only their owner can read, or Secrets of a cluster."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from envmesh_service.kubernetes_api import ClusterApi

__all__ = ["DirectoryStore", "SecretStore"]

_TLS_KIND, _OPAQUE_KIND = "kubernetes.io/tls", "Opaque"


class DirectoryStore:
    """One directory an item, below ``root``. An item appears whole, or not at all."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, item: str) -> Mapping[str, bytes] | None:
        """The files of an item; None: it is not there."""
        directory = self._root / item
        if not directory.is_dir():
            return None
        return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}

    def create(self, item: str, files: Mapping[str, bytes]) -> bool:
        """Keep a new item. False: there is one by now, which stays."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{item}-", dir=self._root))
        try:
            for name, content in files.items():
                _write(made / name, content)
            made.rename(self._root / item)
        except OSError:
            shutil.rmtree(made, ignore_errors=True)
            if (self._root / item).is_dir():
                return False
            raise
        return True

    def replace(self, item: str, files: Mapping[str, bytes]) -> None:
        """Change these files of an item that is there, each at once."""
        directory = self._root / item
        for name, content in files.items():
            new = directory / f".{name}.new"
            new.unlink(missing_ok=True)
            _write(new, content)
            new.replace(directory / name)


class SecretStore:
    """One Secret an item, named ``PREFIX-ITEM``."""

    def __init__(self, api: ClusterApi, namespace: str, prefix: str, labels: Mapping[str, str]) -> None:
        self._api, self._namespace, self._prefix = api, namespace, prefix
        self._labels = {"app.kubernetes.io/managed-by": "envmesh-keys", **labels}

    def read(self, item: str) -> Mapping[str, bytes] | None:
        """The files of an item; None: it is not there."""
        return self._api.secret(self._namespace, self._name(item))

    def create(self, item: str, files: Mapping[str, bytes]) -> bool:
        """Keep a new item. False: there is one by now, which stays."""
        kind = _TLS_KIND if {"tls.crt", "tls.key"} <= files.keys() else _OPAQUE_KIND
        return self._api.create_secret(
            self._namespace, self._name(item), files, kind=kind, labels=self._labels
        )

    def replace(self, item: str, files: Mapping[str, bytes]) -> None:
        """Change these files of an item that is there."""
        self._api.replace_secret(self._namespace, self._name(item), files)

    def _name(self, item: str) -> str:
        return f"{self._prefix}-{item}"


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
