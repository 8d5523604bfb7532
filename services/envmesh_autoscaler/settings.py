"""The autoscaler's settings, read from ENVMESH_AUTOSCALER_*."""

# ruff: noqa: RUF009 - setting(...) makes a field, as dataclasses.field does

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from envmesh_service.logs import LEVELS
from envmesh_service.port_settings import PortSettings
from envmesh_service.settings import Mistake, setting

__all__ = ["AutoscalerSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoscalerSettings(PortSettings):
    """Everything about an autoscaler that can be set. Its port answers KEDA."""

    PREFIX: ClassVar[str] = "ENVMESH_AUTOSCALER_"

    broker: str = setting("127.0.0.1:7070", "the broker's address; its fleet port where it has one")
    broker_token_file: Path | None = setting(
        None, "file with a token of the fleet's, where the broker asks for one"
    )
    pools_file: Path | None = setting(None, "JSON file of the pools that are scaled, and how; watched")
    namespace: str = setting("", "the namespace of the pools' Deployments; empty: this pod's own")
    kubeconfig: str = setting(
        "", "where the API server is; empty: as a pod's ServiceAccount, or as $KUBECONFIG"
    )
    lease: str = setting("envmesh-autoscaler", "the Lease that its leader holds, in the same namespace")
    name: str = setting("", "its name among autoscalers, a pod's name; empty: random")
    dry_run: bool = setting(False, "say what would be done, and do nothing")
    log_level: str = setting("info", "how much is logged", choices=LEVELS)
    log_form: str = setting("auto", "how logs look", choices=("auto", "text", "json"))

    def mistakes(self) -> Iterable[Mistake]:
        """What no single field can tell."""
        yield from self.port_mistakes(credentials_expected=False)
        yield from self.broker_mistakes(self.broker)
        if self.pools_file is None:
            yield Mistake(self.variable_of("pools_file"), "it is missing", "the path of a file is right")
        for field in ("pools_file", "broker_token_file"):
            path: Path | None = getattr(self, field)
            if path is not None and not path.is_file():
                yield Mistake(
                    self.variable_of(field), f"there is no file {path}", "the path of a file is right"
                )
