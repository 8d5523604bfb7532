"""values.yaml, values.schema.json, README.md and the settings classes say the same."""

from __future__ import annotations

import dataclasses

import jsonschema
import yaml

from tools.chart_reference import CHART, WIRED, made, settings_classes
from tools.chart_schema import camel, make_schema, settings_schema
from tools.chart_values import leaves, lookup, read_values


def test_the_generated_files_are_up_to_date() -> None:
    for path, text in made().items():
        assert path.read_text() == text, f"{path.name} is old: run `make chart-reference`"


def test_artifact_hub_is_told_which_images_the_chart_runs() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    hub = {key.partition("/")[2]: text for key, text in chart["annotations"].items()}
    envoy = values["gateway"]["image"]
    assert {each["name"]: each["image"] for each in yaml.safe_load(hub["images"])} == {
        "envmesh": f"{values['image']['repository']}:{chart['appVersion']}",
        "envoy": f"{envoy['repository']}:{envoy['tag']}",
    }
    assert {"category", "license", "changes", "prerelease", "operator"} <= hub.keys()
    assert yaml.safe_load(hub["changes"])


def test_every_value_has_a_description() -> None:
    described = {value.path for value in read_values(CHART / "values.yaml")}
    document = yaml.safe_load((CHART / "values.yaml").read_text())
    for path in leaves(document):
        if path[0] == "pools":
            continue  # an example of what poolDefaults describes
        covered = [path[:length] for length in range(len(path), 0, -1) if path[:length] in described]
        assert covered, f"{'.'.join(path)} has no description"


def test_the_defaults_fit_the_schema_and_the_schema_is_closed() -> None:
    values = read_values(CHART / "values.yaml")
    settings = {f"{c}Settings": settings_schema(cls, WIRED[c]) for c, cls in settings_classes().items()}
    schema = make_schema(values, settings)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load((CHART / "values.yaml").read_text()), schema)
    open_maps = [
        path
        for path, node in _objects(schema)
        if "properties" in node and node.get("additionalProperties") is not False
    ]
    assert not open_maps


def test_settings_map_one_to_one() -> None:
    """Each field of a settings class is a value, or is set by the chart itself: never both, never neither."""
    templates = "".join(path.read_text() for path in (CHART / "templates").rglob("*.*"))
    for component, cls in settings_classes().items():
        fields = {field.name for field in dataclasses.fields(cls) if field.init}
        free = settings_schema(cls, WIRED[component])["properties"].keys()
        assert {camel(name) for name in fields - WIRED[component]} == set(free)
        for name in fields & WIRED[component]:
            whole = f"ENVMESH_{component.upper()}_{name.upper()}"
            assert whole in templates or f"prefix }}}}{name.upper()}" in templates or name in UNUSED, (
                f"nothing sets {whole}"
            )


UNUSED = {"kubeconfig", "lease_keys_file", "broker_token_file", "tls_server_name", "credentials_file",
          "anyone_beyond_loopback"}  # fmt: skip
"""What means nothing in a pod of that component; the chart leaves it at its default."""


def test_lookup_finds_what_leaves_names() -> None:
    document = {"a": {"b": [1]}, "c": {}}
    assert [lookup(document, path) for path in leaves(document)] == [[1], {}]


def _objects(node: object, path: str = "") -> list[tuple[str, dict[str, object]]]:
    found: list[tuple[str, dict[str, object]]] = []
    if isinstance(node, dict):
        found.append((path, node))
        for key, value in node.items():
            found += _objects(value, f"{path}/{key}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            found += _objects(value, f"{path}/{number}")
    return found
