"""values.schema.json: closed, from values.yaml, from the settings classes, and from the rules below."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
import typing
from pathlib import Path
from typing import Any

from tools.chart_values import Value

Schema = dict[str, Any]

_TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
_NAMES: Schema = {"type": "array", "items": {"type": "string"}}
_OBJECTS: Schema = {"type": "array", "items": {"type": "object"}}
_OBJECT: Schema = {"type": "object"}
_QUANTITY: Schema = {"type": ["string", "number"]}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_SECONDS: Schema = {"type": "integer", "minimum": 0, "maximum": 604800}


def _closed(**properties: Schema) -> Schema:
    return {"type": "object", "additionalProperties": False, "properties": properties}


_PEER = _closed(podSelector=_OBJECT, namespaceSelector=_OBJECT, ipBlock=_OBJECT)
_PORT = _closed(
    port={"type": ["integer", "string"], "minimum": 1, "maximum": 65535},
    protocol={"enum": ["TCP", "UDP", "SCTP"]},
)
_PROBE = _closed(
    **dict.fromkeys(
        ("initialDelaySeconds", "periodSeconds", "timeoutSeconds", "failureThreshold", "successThreshold"),
        _COUNT,
    )
)
_CIDR: Schema = {"type": "string", "pattern": r"^[0-9A-Fa-f.:]+/[0-9]+$"}

RULES: dict[str, Schema] = {
    "*abels": _TEXTS,
    "*nnotations": _TEXTS,
    "*.nodeSelector": _TEXTS,
    "*.tolerations": _OBJECTS,
    "*.topologySpreadConstraints": _OBJECTS,
    "*.extraEnv": {
        "type": "array",
        "items": {
            **_closed(name={"type": "string"}, value={"type": "string"}, valueFrom=_OBJECT),
            "required": ["name"],
        },
    },
    "*.extraVolumes": _OBJECTS,
    "*.extraVolumeMounts": _OBJECTS,
    "*.extraArgs": _NAMES,
    "*image.pullSecrets": _NAMES,
    "*image.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "*image.digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    "*.image": _closed(
        repository={"type": "string"},
        tag={"type": "string"},
        digest={"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
        pullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
        pullSecrets=_NAMES,
    ),
    "*.rules.runbooks": {"type": "string", "pattern": "^(https?://[^#]+)?$"},
    "*.affinity": _OBJECT,
    "*.resources": _closed(
        requests={"type": "object", "additionalProperties": _QUANTITY},
        limits={"type": "object", "additionalProperties": _QUANTITY},
        claims=_OBJECTS,
    ),
    "*.probes": _closed(startup=_PROBE, liveness=_PROBE, readiness=_PROBE),
    "rbac.scope": {"enum": ["cluster", "namespace"]},
    "priorityClass.value": {"type": "integer", "minimum": -2147483648, "maximum": 1000000000},
    "priorityClass.preemptionPolicy": {"enum": ["PreemptLowerPriority", "Never"]},
    "tls.mode": {"enum": ["generated", "existing", "certManager", "off"]},
    "tls.extraNames.*": _NAMES,
    "tls.generated.days": {"type": "integer", "minimum": 1, "maximum": 36500},
    "tls.certManager.issuerRef": _closed(
        name={"type": "string"}, kind={"type": "string"}, group={"type": "string"}
    ),
    "credentials.mode": {"enum": ["tokens", "none"]},
    "credentials.tenants": {
        "type": "array",
        "items": {
            **_closed(
                name={"type": "string", "minLength": 1},
                weight={"type": "number", "minimum": 0.001, "maximum": 1000},
                quota=_COUNT,
                tokens={"type": "array", "items": {"type": "string", "pattern": "^[0-9a-f]{64}$"}},
                serviceAccounts={"type": "array", "items": {"type": "string", "pattern": "^[^/]+/[^/]+$"}},
            ),
            "required": ["name"],
        },
    },
    "credentials.serviceAccounts.cacheSeconds": {"type": "integer", "minimum": 1, "maximum": 300},
    "*.service.type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "autoscaler.replicas": {"type": "integer", "minimum": 1, "maximum": 10},
    "gateway.replicas": {"type": "integer", "minimum": 1, "maximum": 1000},
    "gateway.dnsRefreshMilliseconds": {"type": "integer", "minimum": 100, "maximum": 60000},
    "gateway.maxConnections": {"type": "integer", "minimum": 1, "maximum": 10000000},
    "gateway.drainSeconds": {"type": "integer", "minimum": 1, "maximum": 3600},
    "gateway.from": {"type": "array", "items": _PEER},
    "gateway.service.port": {"type": "integer", "minimum": 1, "maximum": 65535},
    "*.environments": {
        "type": "array",
        "items": {
            **_closed(
                name={"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9_.:/-]*$"},
                version={"type": ["string", "integer"]},
                target={"type": "string", "minLength": 1},
            ),
            "required": ["name", "version", "target"],
        },
    },
    "*.slots": {"type": "integer", "minimum": 1, "maximum": 1000000},
    "*.isolation": {"enum": ["", "inline", "thread", "process"]},
    "*.recovery": {"enum": ["", "none", "replay", "state"]},
    "*.stepLimit": {"type": "string", "pattern": r"^([0-9.]+(ms|s|m|min|h)?)?$"},
    "*.scaling.mode": {"enum": ["direct", "keda", "hpa", "manual"]},
    "*.scaling.max": {"type": "integer", "minimum": 1, "maximum": 100000},
    "*.scaling.bufferFactor": {"type": "number", "minimum": 0, "maximum": 100},
    "*.scaling.targetFill": {"type": "number", "minimum": 0.1, "maximum": 1},
    "*.scaling.lookBack": {"type": "integer", "minimum": 0, "maximum": 3600},
    "*.scaling.idleAfter": {"type": "integer", "minimum": 0, "maximum": 86400},
    "*.scaling.drainPatience": {"type": "integer", "minimum": 1, "maximum": 86400},
    "*.scaling.hpa.metrics": _OBJECTS,
    "*.scaling.hpa.behavior": _OBJECT,
    "*.scaling.keda.behavior": _OBJECT,
    "*.scaling.keda.pollingInterval": {"type": "integer", "minimum": 1, "maximum": 300},
    "*.drain.*": _SECONDS,
    "*.rollout.maxSurge": {"type": ["integer", "string"], "minimum": 1, "pattern": "^[1-9][0-9]*%$"},
    "*.rollout.progressDeadlineSeconds": {"type": "integer", "minimum": 1},
    "*.podDisruptionBudget.maxUnavailable": {
        "type": ["integer", "string", "null"],
        "minimum": 0,
        "pattern": "^[0-9]+%$",
    },
    "*.egress": {
        "type": "array",
        "items": {
            **_closed(
                cidr=_CIDR,
                podSelector=_OBJECT,
                namespaceSelector=_OBJECT,
                ports={"type": "array", "items": {**_PORT, "required": ["port"]}},
                **{"except": {"type": "array", "items": _CIDR}},
            ),
            "anyOf": [
                {"required": ["cidr"]},
                {"required": ["podSelector"]},
                {"required": ["namespaceSelector"]},
            ],
            "dependentRequired": {"except": ["cidr"]},
        },
    },
    "networkPolicy.*From": {"type": "array", "items": _PEER},
    "networkPolicy.*.to": {"type": "array", "items": _PEER},
    "networkPolicy.apiServer.ports": {
        "type": "array",
        "items": {"type": "integer", "minimum": 1, "maximum": 65535},
    },
    "hooks.timeoutSeconds": {"type": "integer", "minimum": 10, "maximum": 3600},
    "extraObjects": {"type": "array", "items": {"type": ["object", "string"]}},
}
"""The first pattern that fits a value's path says what may stand there; for others the default's own type does."""

_POOL_NAME = "^[a-z0-9]([-a-z0-9]{0,22}[a-z0-9])?$"


def make_schema(values: list[Value], settings: dict[str, Schema]) -> Schema:
    """The schema. ``settings``: by component, what its settings may be."""
    top: Schema = _closed()
    for value in values:
        if value.path[0] == "pools":
            continue
        node = top
        for key in value.path[:-1]:
            node = node["properties"].setdefault(key, _closed())
        node["properties"].setdefault(value.path[-1], {}).update(_schema_of(value, settings))
    properties = top["properties"]
    pool = properties["poolDefaults"]
    properties["poolDefaults"] = {"$ref": "#/$defs/pool"}
    properties["pools"] = {
        "description": next(value.text for value in values if value.path == ("pools",)),
        "type": "object",
        "additionalProperties": False,
        "patternProperties": {_POOL_NAME: {"anyOf": [{"$ref": "#/$defs/pool"}, {"type": "null"}]}},
    }
    properties["global"] = {"description": "What a parent chart passes to all; not used.", "type": "object"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Values of the envmesh chart",
        **top,
        "$defs": {"pool": pool, **settings},
    }


def _schema_of(value: Value, settings: dict[str, Schema]) -> Schema:
    said: Schema = {"description": value.text}
    if value.path[-1] == "settings":
        component = "host" if value.path[0] == "poolDefaults" else value.path[0]
        return said | (
            {"$ref": f"#/$defs/{component}Settings"} if f"{component}Settings" in settings else _OBJECT
        )
    for pattern, rule in RULES.items():
        if fnmatch.fnmatchcase(value.name, pattern):
            return said | rule
    if value.path == ("poolDefaults",):
        return said | _closed()
    default = value.default
    if isinstance(default, bool):
        return said | {"type": "boolean"}
    if isinstance(default, int):
        return said | _COUNT
    if isinstance(default, float):
        return said | {"type": "number"}
    if isinstance(default, str):
        return said | {"type": "string"}
    raise ValueError(f"{value.name}: nothing says what may stand there; add a rule")


def settings_schema(cls: type[Any], wired: frozenset[str]) -> Schema:
    """What a component's ``settings`` may be: every field of its class that the chart does not set itself."""
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init and f.name not in wired}
    return _closed(**{camel(name): _field_schema(field, hints[name]) for name, field in fields.items()})


def _field_schema(field: dataclasses.Field[Any], hint: Any) -> Schema:
    meta = field.metadata
    said: Schema = {"description": meta.get("purpose", ""), "default": plain(field.default)}
    if meta.get("choices"):
        return said | {"enum": list(meta["choices"])}
    parts = [part for part in (typing.get_args(hint) or (hint,)) if part is not type(None)]
    bounds = {
        k: meta[m] for k, m in (("minimum", "at_least"), ("maximum", "at_most")) if meta.get(m) is not None
    }
    if typing.get_origin(hint) is tuple:
        return said | _NAMES
    if parts[0] is bool:
        return said | {"type": "boolean"}
    if meta.get("unit") in ("seconds", "bytes"):
        return said | {"type": ["number", "string"], **bounds}
    if parts[0] in (int, float):
        return said | {"type": "integer" if parts[0] is int else "number", **bounds}
    return said | {"type": "string"}


def plain(value: Any) -> Any:
    """A default as JSON has it."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def camel(name: str) -> str:
    """``lease_idle`` becomes ``leaseIdle``."""
    return re.sub(r"_([a-z0-9])", lambda match: match[1].upper(), name)
