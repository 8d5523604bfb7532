"""Writes helm/envmesh/values.schema.json and helm/envmesh/README.md; with --check fails when they would change."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from tools.chart_schema import Schema, make_schema, settings_schema
from tools.chart_values import Value, read_values

ROOT = Path(__file__).parents[1]
CHART = ROOT / "helm" / "envmesh"

_PORTS = frozenset(
    {
        "listen", "health_listen", "metrics_listen", "metrics_plaintext", "tls_certificate", "tls_private_key",
        "tls_authority", "plaintext_beyond_loopback", "anyone_beyond_loopback", "credentials_file",
    }
)  # fmt: skip
WIRED = {
    "broker": _PORTS
    | {
        "fleet_listen", "host_names", "operator_names", "token_reviews", "token_review_audience", "token_review_cache",
        "kubeconfig", "lease_keys_file", "pools_file",
    },
    "host": _PORTS
    | {
        "advertise", "broker", "pool", "name", "host_id", "slots", "drain_deadline", "seal_keys_file",
        "lease_keys_file", "broker_token_file", "tls_server_name",
    },
    "autoscaler": _PORTS | {"name", "namespace", "broker", "lease", "pools_file", "kubeconfig"},
}  # fmt: skip
"""By component, the settings that the chart makes from other values."""

CLASSES = {
    "broker": "envmesh_broker.settings:BrokerSettings",
    "host": "envmesh_host.settings:HostSettings",
    "autoscaler": "envmesh_autoscaler.settings:AutoscalerSettings",
}


def settings_classes() -> dict[str, type[Any]]:
    """The settings class of each component."""
    found: dict[str, type[Any]] = {}
    for component, place in CLASSES.items():
        module, _, name = place.partition(":")
        if importlib.util.find_spec(module) is not None:
            found[component] = getattr(importlib.import_module(module), name)
    return found


def made() -> dict[Path, str]:
    """What the two files should be."""
    values = read_values(CHART / "values.yaml")
    settings = {f"{c}Settings": settings_schema(cls, WIRED[c]) for c, cls in settings_classes().items()}
    schema = json.dumps(make_schema(values, settings), indent=2, ensure_ascii=False) + "\n"
    return {CHART / "values.schema.json": schema, CHART / "README.md": _readme(values, settings)}


def _readme(values: list[Value], settings: dict[str, Schema]) -> str:
    parts = [(CHART / "README.md.head").read_text().rstrip(), "", "## Values", ""]
    section = ""
    for value in values:
        if value.path[0] != section:
            section = value.path[0]
            parts += ["", f"### {section}", "", "| value | default | meaning |", "|---|---|---|"]
        parts.append(f"| `{value.name}` | {_default(value.default)} | {_cell(value.text)} |")
    for name, schema in settings.items():
        component = name.removesuffix("Settings")
        where = "pools.NAME.settings" if component == "host" else f"{component}.settings"
        parts += ["", f"### Settings of {component} (`{where}`)", ""]
        parts += [f"Each is the variable `ENVMESH_{component.upper()}_…` of the same name.", ""]
        parts += ["| setting | default | meaning |", "|---|---|---|"]
        parts += [
            f"| `{key}` | {_default(each.get('default'))} | {_cell(each['description'])} |"
            for key, each in schema["properties"].items()
        ]
    return "\n".join(parts) + "\n"


def _default(value: Any) -> str:
    if value in ("", None) and not isinstance(value, bool | int):
        return "" if value == "" else "`null`"
    text = json.dumps(value, ensure_ascii=False)
    return f"`{text}`" if len(text) <= 60 else "see values.yaml"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> int:
    """Write the files, or compare them. Returns the exit status."""
    status = 0
    for path, text in made().items():
        old = path.read_text() if path.exists() else ""
        if old == text:
            continue
        if "--check" in sys.argv[1:]:
            name = str(path.relative_to(ROOT))
            sys.stdout.writelines(
                difflib.unified_diff(old.splitlines(True), text.splitlines(True), name, "made anew")
            )
            status = 1
        else:
            path.write_text(text)
            print(f"wrote {path.relative_to(ROOT)}")
    if status:
        print("run `make chart-reference`")
    return status


if __name__ == "__main__":
    sys.exit(main())
