"""The broker's settings, read from ENVMESH_BROKER_*."""

# ruff: noqa: RUF009 - setting(...) makes a field, as dataclasses.field does

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from envmesh.spans import collector_mistake
from envmesh_broker.catalog import DeclaredPool
from envmesh_broker.core import CoreBounds
from envmesh_broker.ledger import LedgerBounds
from envmesh_broker.queue import QueueBounds
from envmesh_broker.scheduler import SchedulerBounds
from envmesh_service.leases import CLOCK_LEEWAY
from envmesh_service.logs import LEVELS
from envmesh_service.port_settings import PortSettings
from envmesh_service.rpc import Endpoint
from envmesh_service.settings import Mistake, setting

__all__ = ["BrokerSettings", "parse_pools"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSettings(PortSettings):
    """Everything about a broker that can be set."""

    PREFIX: ClassVar[str] = "ENVMESH_BROKER_"

    fleet_listen: str = setting(
        "",
        "a port of their own for hosts, autoscaler and operators, with certificates on both sides; empty: none",
    )
    host_names: tuple[str, ...] = setting(
        ("envmesh-host",), "names on certificates that may register hosts on the fleet port"
    )
    operator_names: tuple[str, ...] = setting(
        ("envmesh-autoscaler", "envmesh-operator"),
        "names on certificates that may look and steer on the fleet port",
    )
    token_reviews: bool = setting(
        False, "let ServiceAccounts of the cluster call with their tokens, judged by its API server"
    )
    token_review_audience: str = setting("envmesh", "the audience that their tokens must be made for")
    token_review_cache: float = setting(
        60.0, "how long the API server's word on a token counts", at_least=1, at_most=300, unit="seconds"
    )
    kubeconfig: str = setting(
        "", "where the API server is; empty: as a pod's ServiceAccount, or as $KUBECONFIG"
    )
    page_listen: str = setting("", "where the live page is shown, as host:port; empty: nowhere")
    page_values: bool = setting(
        False, "let whoever sees the page ask for the actions and observations of an episode"
    )
    page_beyond_loopback: bool = setting(
        False, "show the page beyond this machine too: it is plain text, and asks nobody who they are"
    )
    traces: str = setting(
        "",
        "a collector (OTLP/gRPC) for the episodes whose clients trace them, as http://host:port or https://host:port; "
        "empty: none",
    )
    log_level: str = setting("info", "how much is logged", choices=LEVELS)
    log_form: str = setting("auto", "how logs look", choices=("auto", "text", "json"))
    lease_keys_file: Path | None = setting(
        None, "PEM file of keys that sign leases, the first of them; watched; none: a new key each start"
    )
    pools_file: Path | None = setting(
        None, "JSON file of pools that may have no host now, or are retiring; watched"
    )
    report_interval: float = setting(1.0, "how often hosts report", at_least=0.1, at_most=60, unit="seconds")
    status_interval: float = setting(
        5.0, "how often those who wait hear their place", at_least=0.1, at_most=5, unit="seconds"
    )
    liveness: float = setting(
        5.0, "a host unheard for longer is silent", at_least=0.5, at_most=300, unit="seconds"
    )
    forget: float = setting(
        300.0, "a host silent for longer is gone", at_least=1, at_most=86_400, unit="seconds"
    )
    settle: float = setting(
        2.0, "the time hosts have to come back after a start", at_least=0, at_most=60, unit="seconds"
    )
    lease_validity: float = setting(
        10.0,
        "a grant that is not shown to its host for longer lapses",
        at_least=1,
        at_most=300,
        unit="seconds",
    )
    gang_patience: float = setting(
        2.0, "so long a gang may be overtaken while it does not fit", at_least=0, at_most=3600, unit="seconds"
    )
    usage_half_life: float = setting(
        600.0,
        "after so long a slot-second counts half in fairness",
        at_least=1,
        at_most=86_400,
        unit="seconds",
    )
    lagging: float = setting(
        0.25, "a host whose event loop is later is taken last", at_least=0.001, at_most=60, unit="seconds"
    )
    queue_requests: int = setting(10_000, "how many requests may wait", at_least=0, at_most=1_000_000)
    queue_tenant_requests: int = setting(
        5_000, "how many of one tenant may wait", at_least=0, at_most=1_000_000
    )
    shutdown_grace: float = setting(
        5.0, "the time calls have to end", at_least=0, at_most=300, unit="seconds"
    )

    @property
    def fleet_endpoint(self) -> Endpoint:
        """Where the other services are heard, with certificates on both sides."""
        return Endpoint(
            listen=self.fleet_listen,
            certificate=self.tls_certificate,
            private_key=self.tls_private_key,
            client_authority=self.tls_authority,
        )

    @property
    def bounds(self) -> CoreBounds:
        """What its decisions are bounded by."""
        return CoreBounds(
            ledger=LedgerBounds(
                liveness=self.liveness,
                forget=self.forget,
                settle=self.settle,
                lagging=self.lagging,
                leeway=CLOCK_LEEWAY,
            ),
            queue=QueueBounds(requests=self.queue_requests, tenant_requests=self.queue_tenant_requests),
            scheduler=SchedulerBounds(validity=self.lease_validity, patience=self.gang_patience),
            usage_half_life=self.usage_half_life,
        )

    def mistakes(self) -> Iterable[Mistake]:
        """What no single field can tell."""
        yield from self.port_mistakes(credentials_expected=True)
        if self.traces and (wrong := collector_mistake(self.traces)):
            yield Mistake(self.variable_of("traces"), *wrong)
        if self.report_interval * 2 > self.liveness:
            yield Mistake(
                self.variable_of("liveness"),
                f"{self.liveness} s",
                "at least twice the report interval is right",
            )
        if self.fleet_listen and (self.tls_certificate is None or self.tls_authority is None):
            yield Mistake(
                self.variable_of("fleet_listen"),
                "the fleet's port has certificates on both sides",
                f"set {self.variable_of('tls_certificate')}, {self.variable_of('tls_private_key')} "
                f"and {self.variable_of('tls_authority')}",
            )
        if self.page_listen and not self.page_listen.rpartition(":")[2].isdecimal():
            yield Mistake(
                self.variable_of("page_listen"), f"{self.page_listen!r} has no port", "host:port is right"
            )
        elif (
            self.page_listen
            and not self.page_beyond_loopback
            and not Endpoint(listen=self.page_listen).loopback
        ):
            yield Mistake(
                self.variable_of("page_listen"),
                f"{self.page_listen} would show the page to everybody beyond this machine",
                f"listen on 127.0.0.1, or set {self.variable_of('page_beyond_loopback')}=true",
            )
        if self.token_reviews and self.credentials_file is None:
            yield Mistake(
                self.variable_of("token_reviews"),
                "nothing says which tenant a ServiceAccount belongs to",
                f"set {self.variable_of('credentials_file')}, whose tenants have 'service_accounts'",
            )
        for field in ("lease_keys_file", "pools_file"):
            path: Path | None = getattr(self, field)
            if path is not None and not path.is_file():
                yield Mistake(
                    self.variable_of(field), f"there is no file {path}", "the path of a file is right"
                )


def parse_pools(text: str) -> list[DeclaredPool]:
    """Read a pools file: ``[{"name": "cartpole", "environments": ["cartpole@1"], "slots": 64, "max_hosts": 20}]``. A
    pool may be ``"retiring": true`` too.

    Raises:
        ValueError: with what is wrong in it.
    """
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON: {error}") from None
    if not isinstance(document, list):
        raise ValueError("it must be a list of pools")
    return [_pool(entry, f"pools[{number}]") for number, entry in enumerate(document)]


def _pool(entry: Any, where: str) -> DeclaredPool:
    known = {"name", "environments", "slots", "max_hosts", "retiring"}
    if not isinstance(entry, dict) or set(entry) - known:
        raise ValueError(f"{where}: a pool has {', '.join(sorted(known))}, and nothing else")
    name, environments = entry.get("name"), entry.get("environments")
    if not isinstance(name, str) or not name:
        raise ValueError(f"{where}.name: a name is right")
    if not isinstance(environments, list) or not all(isinstance(e, str) and "@" in e for e in environments):
        raise ValueError(f"{where}.environments: a list of name@version is right")
    numbers = {key: entry.get(key, 0) for key in ("slots", "max_hosts")}
    for key, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(f"{where}.{key}: a whole number of at least 0 is right (0: not known)")
    retiring = entry.get("retiring", False)
    if not isinstance(retiring, bool):
        raise ValueError(f"{where}.retiring: true or false is right")
    return DeclaredPool(name=name, environments=tuple(environments), retiring=retiring, **numbers)
