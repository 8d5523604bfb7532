"""The volumes of a pod as directories, and its environment variables, as a kubelet makes them."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.cluster.api import Api, Object

_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")
_LABELLED = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")


class MissingObject(Exception):
    """A ConfigMap, Secret or key that a pod names is not there (yet)."""


class Volumes:
    """The volumes of one pod below ``directory``; ``refresh`` brings them up to date."""

    def __init__(self, api: Api, directory: Path, pod: Callable[[], Object]) -> None:
        self._api, self._directory, self._pod = api, directory, pod
        self._tokens: dict[str, tuple[float, bytes]] = {}

    def path(self, name: str) -> Path:
        """Where a volume is."""
        return self._directory / name

    def make(self) -> None:
        """Make them all.

        Raises:
            MissingObject: something that is not optional is not there.
        """
        for volume in self._pod()["spec"].get("volumes", []):
            path = self.path(volume["name"])
            path.mkdir(parents=True, exist_ok=True)
            if "emptyDir" in volume:
                path.chmod(0o777)
                if volume["emptyDir"].get("medium") == "Memory":
                    size = volume["emptyDir"].get("sizeLimit", "64Mi").replace("i", "")
                    subprocess.run(
                        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=1777", "tmpfs", str(path)],
                        check=True,
                    )
        self.refresh()

    def refresh(self) -> None:
        """Write what has changed in ConfigMaps, Secrets, tokens and the downward API; all of a volume at once."""
        group = self._pod()["spec"].get("securityContext", {}).get("fsGroup")
        for volume in self._pod()["spec"].get("volumes", []):
            files = self._files(volume)
            if files is not None:
                _write(self.path(volume["name"]), files, group)

    def _files(self, volume: Object) -> dict[str, tuple[bytes, int]] | None:
        if "emptyDir" in volume:
            return None
        if "projected" in volume:
            files: dict[str, tuple[bytes, int]] = {}
            mode = volume["projected"].get("defaultMode", 0o644)
            for source in volume["projected"]["sources"]:
                ((kind, value),) = source.items()
                files |= self._source(kind, value, mode)
            return files
        for kind in ("configMap", "secret", "downwardAPI"):
            if kind in volume:
                return self._source(kind, volume[kind], volume[kind].get("defaultMode", 0o644))
        raise MissingObject(f"volume {volume['name']}: this node has no volumes of its kind")

    def _source(self, kind: str, value: Object, mode: int) -> dict[str, tuple[bytes, int]]:
        if kind == "serviceAccountToken":
            return {value["path"]: (self._token(value), 0o600 if mode == 0o600 else 0o640)}
        if kind == "downwardAPI":
            items = value.get("items", [])
            return {
                i["path"]: (field(self._pod(), i["fieldRef"]["fieldPath"]).encode(), i.get("mode", mode))
                for i in items
            }
        found = self._object(kind, value.get("name") or value["secretName"], bool(value.get("optional")))
        items = value.get("items") or [{"key": key, "path": key} for key in found]
        missing = [item["key"] for item in items if item["key"] not in found]
        if missing and not value.get("optional"):
            raise MissingObject(f"{kind} has no key {missing[0]}")
        return {i["path"]: (found[i["key"]], i.get("mode", mode)) for i in items if i["key"] in found}

    def _object(self, kind: str, name: str, optional: bool) -> dict[str, bytes]:
        namespace = self._pod()["metadata"]["namespace"]
        found = self._api.find(f"/api/v1/namespaces/{namespace}/{kind.lower()}s/{name}")
        if found is None:
            if optional:
                return {}
            raise MissingObject(f'{kind.lower()} "{name}" not found')
        binary = found.get("data", {}) if kind == "secret" else found.get("binaryData", {})
        texts = {} if kind == "secret" else found.get("data") or {}
        return {k: base64.b64decode(v) for k, v in (binary or {}).items()} | {
            k: v.encode() for k, v in texts.items()
        }

    def _token(self, value: Object) -> bytes:
        made, token = self._tokens.get(value["path"], (0.0, b""))
        lifetime = value.get("expirationSeconds", 3600)
        if time.monotonic() - made > 0.8 * lifetime or not token:
            meta, spec = self._pod()["metadata"], self._pod()["spec"]
            audience = [value["audience"]] if value.get("audience") else []
            bound = {"kind": "Pod", "apiVersion": "v1", "name": meta["name"], "uid": meta["uid"]}
            answer = self._api.create(
                f"/api/v1/namespaces/{meta['namespace']}/serviceaccounts/{spec['serviceAccountName']}/token",
                {"spec": {"audiences": audience, "expirationSeconds": lifetime, "boundObjectRef": bound}},
            )
            token = answer["status"]["token"].encode()
            self._tokens[value["path"]] = (time.monotonic(), token)
        return token

    # ---- environment

    def environment(self, container: Object, address: str) -> dict[str, str]:
        """The environment variables of a container.

        Raises:
            MissingObject: something they name is not there.
        """
        made = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
        for source in container.get("envFrom", []):
            ((kind, value),) = ((k, v) for k, v in source.items() if k != "prefix")
            found = self._object(kind.removesuffix("Ref"), value["name"], bool(value.get("optional")))
            made |= {source.get("prefix", "") + key: text.decode() for key, text in found.items()}
        for entry in container.get("env", []):
            made[entry["name"]] = self._value(entry, container, address, made)
        return made

    def _value(self, entry: Object, container: Object, address: str, made: Mapping[str, str]) -> str:
        if "valueFrom" not in entry:
            return expand(entry.get("value", ""), made)
        ((kind, value),) = entry["valueFrom"].items()
        if kind == "fieldRef":
            return address if value["fieldPath"] == "status.podIP" else field(self._pod(), value["fieldPath"])
        if kind == "resourceFieldRef":
            which, name = value["resource"].split(".")
            return str(container.get("resources", {}).get(which, {}).get(name, "0"))
        found = self._object(kind.removesuffix("KeyRef"), value["name"], bool(value.get("optional")))
        if value["key"] not in found and not value.get("optional"):
            raise MissingObject(f"{value['name']} has no key {value['key']}")
        return found.get(value["key"], b"").decode()


def expand(text: str, variables: Mapping[str, str]) -> str:
    """``$(NAME)`` becomes the variable's value, as in container commands; unknown names stay."""

    def replaced(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else variables.get(match[1], match[0])

    return _REFERENCE.sub(replaced, text)


def field(pod: Object, path: str) -> str:
    """A field of the downward API."""
    if (match := _LABELLED.fullmatch(path)) is not None:
        return str(pod["metadata"].get(match[1], {}).get(match[2], ""))
    if path in ("metadata.labels", "metadata.annotations"):
        pairs = pod["metadata"].get(path.partition(".")[2]) or {}
        return "".join(f'{key}="{value}"\n' for key, value in sorted(pairs.items()))
    value: object = pod
    for part in path.split("."):
        value = value.get(part, "") if isinstance(value, dict) else ""
    return str(value)


def _write(path: Path, files: Mapping[str, tuple[bytes, int]], group: int | None) -> None:
    """Swap a volume's content as a kubelet does: a new directory, and one rename of the link ``..data``."""
    link = path / "..data"
    if link.exists() and {
        str(f.relative_to(link.resolve())): f.read_bytes() for f in link.resolve().rglob("*") if f.is_file()
    } == {name: content for name, (content, _) in files.items()}:
        return
    old = link.resolve() if link.is_symlink() else None
    new = path / f"..{time.time_ns()}"
    new.mkdir(mode=0o755)
    new.chmod(0o755)
    for name, (content, mode) in files.items():
        target = new / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        if group is not None:
            os.chown(target, 0, group)
            mode |= 0o440
        target.chmod(mode)
        first = name.split("/")[0]
        if not (path / first).is_symlink():
            (path / first).symlink_to(f"..data/{first}")
    temporary = path / "..data_tmp"
    temporary.symlink_to(new.name)
    temporary.rename(link)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)
