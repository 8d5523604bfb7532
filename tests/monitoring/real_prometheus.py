"""A real Prometheus beside a mesh: its configuration, its process, and what it is asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tools.prometheus_beside import free_port, prometheus_beside

__all__ = ["Prometheus", "impatient", "prometheus"]


class Prometheus:
    """One that runs."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its HTTP API. Raises: ValueError with its own words."""
        return await asyncio.to_thread(self._ask, path, parameters)

    def _ask(self, path: str, parameters: Mapping[str, str]) -> Any:
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(f"{parameters}: {error.read().decode()}") from None

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """The value of an expression now."""
        data = await self.ask("query", query=expression)
        return list(data["result"]) if data["resultType"] != "scalar" else [{"value": data["result"]}]

    async def firing(self) -> set[str]:
        """The alerts that fire now."""
        alerts = (await self.ask("alerts"))["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}


def impatient(rule_file: Path) -> str:
    """A rule file whose alerts fire as soon as their condition holds; the conditions stay as they are."""
    content = yaml.safe_load(rule_file.read_text())
    for group in content["groups"]:
        group["interval"] = "1s"
        for rule in group["rules"]:
            if "alert" in rule:
                rule["for"] = "1s"
    return yaml.safe_dump(content, width=1000)


@contextlib.asynccontextmanager
async def prometheus(
    directory: Path, targets: Mapping[str, str], rule_files: Sequence[Path]
) -> AsyncIterator[Prometheus]:
    """A Prometheus that scrapes each target every second, by name."""
    copies = [directory / path.name for path in rule_files]
    for path, copy in zip(rule_files, copies, strict=True):
        copy.write_text(impatient(path))
    async with prometheus_beside(directory, targets, copies, interval="1s", port=free_port()) as url:
        yield Prometheus(url)
