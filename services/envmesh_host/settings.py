"""What can be set on a host. Every bound has a finite default."""

# ruff: noqa: RUF009 - setting(...) makes a field, as dataclasses.field does

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from envmesh.frame_bounds import FRAME_HEAD_BYTES
from envmesh.spans import collector_mistake
from envmesh_service.port_settings import PortSettings
from envmesh_service.settings import Mistake, setting

__all__ = ["HostSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings(PortSettings):
    """Settings of a host, from ``ENVMESH_HOST_*``. Durations in seconds, sizes in bytes."""

    PREFIX: ClassVar[str] = "ENVMESH_HOST_"

    advertise: str = setting("", "the address that clients are given; empty: where it listens")
    broker: str = setting("", "the broker's address; empty: this host is alone")
    pool: str = setting("default", "the pool this host belongs to")
    name: str = setting("", "its name for people; empty: made from its id")
    host_id: str = setting("", "unique over time (a pod's uid); empty: random")
    placement: str = setting(
        "pack",
        "how its pool is filled: the fullest host first, or the emptiest",
        choices=("pack", "spread"),
    )
    slots: int = setting(4096, "episodes at once", at_least=1, at_most=1_000_000)
    undeclared_slots: int = setting(
        16, "episodes at once of an environment that declares nothing", at_least=1, at_most=100_000
    )
    workers: int = setting(0, "worker processes an environment; 0: one a core", at_least=0, at_most=1024)
    threads: int = setting(64, "threads an environment", at_least=1, at_most=4096)
    tenant_streams: int = setting(
        2048, "streams of one tenant at once; a client takes two", at_least=2, at_most=1_000_000
    )
    max_message_bytes: int = setting(
        64 << 20, "bound on one message or frame", at_least=1 << 16, at_most=1 << 30, unit="bytes"
    )
    max_value_bytes: int = setting(
        48 << 20, "bound on one observation, action or info", at_least=1 << 10, at_most=1 << 30, unit="bytes"
    )
    lease_idle: float = setting(
        60.0, "an idle slot goes back after this long", at_least=0.1, at_most=86400, unit="seconds"
    )
    reattach_window: float = setting(
        60.0, "episodes wait this long for a client that vanished", at_least=0, at_most=86400, unit="seconds"
    )
    unary_idle: float = setting(
        600.0,
        "episodes of unary callers end after this long without a call",
        at_least=1,
        at_most=86400,
        unit="seconds",
    )
    episode_age: float = setting(
        86400.0, "no episode lives longer", at_least=1, at_most=30 * 86400, unit="seconds"
    )
    liveness_window: float = setting(
        10.0,
        "after this long a silence each side suspects the other",
        at_least=1,
        at_most=300,
        unit="seconds",
    )
    drain_deadline: float = setting(
        30.0,
        "after the first SIGTERM, how long episodes may take to leave",
        at_least=0,
        at_most=86400,
        unit="seconds",
    )
    stuck_patience: float = setting(
        30.0,
        "in a mesh, a host leaves, to be started anew, when code that does not return has held half of an "
        "environment's slots for so long",
        at_least=0.1,
        at_most=86400,
        unit="seconds",
    )
    checkpoint_store: str = setting(
        "", "where large checkpoints are kept, as an fsspec URL (file:///var/checkpoints, s3://bucket/path)"
    )
    checkpoint_inline_bytes: int = setting(
        64 * 1024,
        "checkpoints up to this size travel to the client",
        at_least=0,
        at_most=1 << 30,
        unit="bytes",
    )
    checkpoint_lifetime: float = setting(
        86400.0,
        "a stored checkpoint is kept at most so long",
        at_least=60,
        at_most=90 * 86400,
        unit="seconds",
    )
    checkpoint_steps: int = setting(
        50, "episodes of class STATE are saved at least every so many steps", at_least=1, at_most=1_000_000
    )
    checkpoint_seconds: float = setting(
        30.0, "and with the first step after so long", at_least=0.1, at_most=86400, unit="seconds"
    )
    witness: bool = setting(
        True, "in a mesh, have a small process beside this one tell the broker how it ended"
    )
    tls_server_name: str = setting(
        "",
        "the name on its certificate, for clients that reach it by address; empty: the certificate's first name",
    )
    broker_token_file: Path | None = setting(
        None, "a file with the fleet's bearer token, where the broker knows hosts by that"
    )
    lease_keys_file: Path | None = setting(None, "PEM Ed25519 keys, where this host signs for itself")
    seal_keys_file: Path | None = setting(None, "keys that hosts share, for checkpoints and attach tokens")
    traces: str = setting(
        "",
        "a collector (OTLP/gRPC) for the episodes whose clients trace them, as http://host:port or https://host:port; "
        "empty: none",
    )
    traced_episodes: int = setting(
        64, "of the episodes whose clients trace them, so many at once", at_least=0, at_most=100_000
    )
    log_level: str = setting("info", "what is logged", choices=("debug", "info", "warning", "error"))

    def mistakes(self) -> Iterator[Mistake]:
        """What no single field can tell."""
        if self.max_value_bytes + FRAME_HEAD_BYTES > self.max_message_bytes:
            yield Mistake(
                "ENVMESH_HOST_MAX_VALUE_BYTES",
                f"{self.max_value_bytes} does not fit into max_message_bytes ({self.max_message_bytes})",
                "at least 64 KiB less is right",
            )
        if self.traces and (wrong := collector_mistake(self.traces)):
            yield Mistake(self.variable_of("traces"), *wrong)
        yield from self.port_mistakes(credentials_expected=not self.broker)
        if self.broker and self.credentials_file is not None:
            yield Mistake(
                self.variable_of("credentials_file"),
                "a host in a mesh checks no credentials: its broker does",
                f"set it on the broker, or no {self.variable_of('broker')}",
            )
        if self.broker:
            yield from self.broker_mistakes(self.broker)
        for field in ("lease_keys_file", "seal_keys_file", "broker_token_file"):
            path: Path | None = getattr(self, field)
            if path is not None and not path.is_file():
                yield Mistake(
                    self.variable_of(field), f"there is no file {path}", "the path of a file is right"
                )
