"""A dashboard out of rows of panels: places, variables, links between the pages, and annotations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.models import dashboard as model

from tools.dashboards.panels import DATASOURCE, FLEET, Panel

__all__ = ["LEGENDS", "Page", "Row", "dashboard"]

COLUMNS = 24
TAG = "envmesh"


@dataclass(frozen=True)
class Row:
    """A heading, and panels side by side; the widths of a line add up to 24. ``height`` is in Grafana's 30 pixels."""

    title: str
    panels: Sequence[Panel]
    height: int = 8


@dataclass(frozen=True)
class Page:
    """One dashboard. ``variables`` are (name, label, metric, name of the label whose values it has)."""

    uid: str
    title: str
    why: str
    rows: Sequence[Row]
    variables: Sequence[tuple[str, str, str]] = ()


SERVED = f'envmesh_episodes_total{{{FLEET},outcome="closed"}}'
RUNS = f"envmesh_build_info{{{FLEET}}}"
"""A series for each environment's version on each host, and one for each process."""


def _new(by: str, series: str) -> str:
    """What is there now, and was not in the day that ended five minutes ago: a pool that was at zero is no deploy."""
    return f"count by ({by}) ({series}) unless count by ({by}) (last_over_time({series}[1d] offset 5m))"


ANNOTATIONS = (
    (
        "Scaling",
        "blue",
        f'sum by (pool, action) (increase(envmesh_decisions_total{{{FLEET},action=~"raise|count_out"}}[1m])) > 0',
    ),
    (
        "Deploys",
        "purple",
        f'{_new("environment, version", SERVED)} or label_replace({_new("version", RUNS)}, "environment", "envmesh", "", "")',
    ),
    ("Drains", "orange", f'sum by (pool) (envmesh_pool_hosts{{{FLEET},state="draining"}}) > 0'),
)

LEGENDS = {
    "Scaling": "{{pool}}: {{action}}",
    "Deploys": "{{environment}}@{{version}}",
    "Drains": "{{pool}}: hosts drain",
}
"""What an annotation says where the pointer is on it."""


def dashboard(page: Page) -> model.Dashboard:
    """The page as Grafana's model."""
    made = (
        build.Dashboard(page.title)
        .uid(page.uid)
        .description(page.why)
        .tags([TAG])
        .editable()
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .refresh("30s")
        .time("now-1h", "now")
        .link(
            build.DashboardLink("envmesh")
            .type(model.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(False)
            .include_vars(True)
            .keep_time(True)
        )
    )
    made = made.with_variable(
        build.DatasourceVariable("datasource")
        .label("Data source")
        .description("Which Prometheus")
        .type("prometheus")
    )
    for name, label, metric in (
        ("cluster", "Cluster", "envmesh_build_info"),
        ("namespace", "Namespace", 'envmesh_build_info{cluster=~"$cluster"}'),
        *page.variables,
    ):
        made = made.with_variable(_variable(name, label, metric))
    for name, color, expression in ANNOTATIONS:
        made = made.annotation(
            build.AnnotationQuery()
            .name(name)
            .datasource(DATASOURCE)
            .enable(True)
            .icon_color(color)
            .expr(expression)
        )
    y, number = 0, 1
    for row in page.rows:
        position = model.GridPos(h=1, w=COLUMNS, x=0, y=y)
        made = made.with_row(build.Row(row.title).id(number).grid_pos(position))
        number, y, x = number + 1, y + 1, 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                raise ValueError(f"{page.title}, {row.title}: a line of panels is wider than {COLUMNS}")
            position = model.GridPos(h=row.height, w=panel.width, x=x, y=y)
            made = made.with_panel(panel.make().id(number).grid_pos(position))  # type: ignore[attr-defined]
            number, x = number + 1, x + panel.width
            if x == COLUMNS:
                x, y = 0, y + row.height
        if x:
            raise ValueError(
                f"{page.title}, {row.title}: the last line of panels has {COLUMNS - x} columns left"
            )
    return made.build()


def _variable(name: str, label: str, metric: str) -> build.QueryVariable:
    return (
        build.QueryVariable(name)
        .label(label)
        .description(f"Only what has this {label.lower()}")
        .datasource(DATASOURCE)
        .query({"query": f"label_values({metric}, {name})", "refId": name, "qryType": 1})
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(model.VariableOption(selected=True, text="All", value="$__all"))
    )
