"""Panels as this project draws them: one look for each kind, and the numbers that may vary.

Blue and green are as it should be, orange wants a look, red wants somebody now. Latencies and returns are heatmaps, for
an average hides what hurts; what adds up is stacked; single numbers stand in the first row only. Every panel has
thresholds. Numbers and bars are coloured by theirs, and a curve shows as a dashed line what an objective or an alert
holds it to; where nothing is too much or too little they are neutral, for Grafana's default calls 80 of anything red.
Heatmaps and tables draw none, so what they are held to stands as a number beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from grafana_foundation_sdk.builders import bargauge, common, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog import builder as cog
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import heatmap as heatmap_model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

__all__ = [
    "DATASOURCE",
    "FLEET",
    "HOST",
    "Panel",
    "Query",
    "bars",
    "heat",
    "lines",
    "number",
    "rows_table",
    "stacked",
]

DATASOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")

FLEET = 'cluster=~"$cluster",namespace=~"$namespace"'
"""What every expression selects by."""
HOST = f'{FLEET},environment=~"$environment",version=~"$version"'
"""The same for what hosts say of environments."""

Steps = Sequence[tuple[float | None, str]]
Query = tuple[str, str]
"""An expression, and the legend of its series."""


@dataclass(frozen=True)
class Panel:
    """A panel without its place: ``make`` gives the builder, ``width`` is in 24ths of a row."""

    make: Callable[[], cog.Builder[model.Panel]]
    width: int

    def wide(self, width: int) -> Panel:
        """The same, another width."""
        return replace(self, width=width)


def _thresholds(steps: Steps) -> build.ThresholdsConfig:
    return (
        build.ThresholdsConfig()
        .mode(model.ThresholdsMode.ABSOLUTE)
        .steps([model.Threshold(value=value, color=color) for value, color in steps])
    )


_NEUTRAL: Steps = ((None, "blue"),)


def _queries(panel: Any, queries: Sequence[Query], *, form: PromQueryFormat, instant: bool = False) -> Any:
    for number, (expression, legend) in enumerate(queries):
        query = (
            prometheus.Dataquery()
            .expr(expression)
            .legend_format(legend)
            .format(form)
            .ref_id(chr(ord("A") + number))
            .datasource(DATASOURCE)
        )
        if form is PromQueryFormat.HEATMAP:  # points that lead to the traces behind them
            query = query.exemplar(True)
        panel = panel.with_target(query.instant() if instant else query.range())
    return panel.datasource(DATASOURCE)


def number(
    title: str, expression: str, unit: str, why: str, *, steps: Steps = _NEUTRAL, decimals: int | None = None,
    to: str = "", width: int = 3, graph: bool = True,
) -> Panel:  # fmt: skip
    """One number, coloured by its thresholds; a click leads ``to`` the dashboard of this uid."""

    def make() -> Any:
        panel = (
            stat.Panel()
            .title(title)
            .description(why)
            .unit(unit)
            .thresholds(_thresholds(steps))
            .color_scheme(build.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
            .color_mode(common_model.BigValueColorMode.VALUE)
            .graph_mode(common_model.BigValueGraphMode.AREA if graph else common_model.BigValueGraphMode.NONE)
            .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
            .no_value("–")
        )
        if decimals is not None:
            panel = panel.decimals(decimals)
        if to:
            link = build.DashboardLink("Look closer").url(
                f"/d/{to}?${{__url_time_range}}&${{__all_variables}}"
            )
            panel = panel.data_links([link])
        return _queries(panel, [(expression, "")], form=PromQueryFormat.TIME_SERIES)

    return Panel(make, width)


def lines(
    title: str, queries: Sequence[Query], unit: str, why: str, *, width: int = 8, steps: Steps = _NEUTRAL, least: float | None = 0,
    most: float | None = None, fill: int = 8, stack: bool = False, right: tuple[str, str] | None = None,
) -> Panel:  # fmt: skip
    """Curves over time. ``steps`` are drawn as lines where they matter; what the query ``right`` names (its letter, and
    its unit) has an axis of its own."""

    def make() -> Any:
        panel = (
            timeseries.Panel()
            .title(title)
            .description(why)
            .unit(unit)
            .line_width(1.0 if stack else 2.0)
            .fill_opacity(60.0 if stack else float(fill))
            .line_interpolation(common_model.LineInterpolation.LINEAR)
            .show_points(common_model.VisibilityMode.NEVER)
            .thresholds(_thresholds(steps))
            .legend(_legend())
            .tooltip(_tooltip())
        )
        if least is not None:
            panel = panel.min(least)
        if most is not None:
            panel = panel.max(most)
        if steps is not _NEUTRAL:
            panel = panel.thresholds_style(
                common.GraphThresholdsStyleConfig().mode(common_model.GraphThresholdsStyleMode.DASHED)
            )
        if right is not None:
            own = [("unit", right[1]), ("custom.axisPlacement", "right"), ("custom.fillOpacity", 0)]
            panel = panel.override_by_query(
                right[0], [model.DynamicConfigValue(id_val=name, value=value) for name, value in own]
            )
        if stack:
            panel = panel.stacking(common.StackingConfig().mode(common_model.StackingMode.NORMAL).group("A"))
        return _queries(panel, queries, form=PromQueryFormat.TIME_SERIES)

    return Panel(make, width)


def stacked(
    title: str, queries: Sequence[Query], unit: str, why: str, *, width: int = 8, steps: Steps = _NEUTRAL
) -> Panel:
    """What adds up to a whole."""
    return lines(title, queries, unit, why, width=width, steps=steps, stack=True)


def heat(
    title: str, expression: str, unit: str, why: str, *, width: int = 12,
    scheme: Literal["Oranges", "Blues", "Greens", "Purples"] = "Oranges",
) -> Panel:  # fmt: skip
    """A histogram over time: ``expression`` gives buckets by ``le``."""

    def make() -> Any:
        panel = (
            heatmap.Panel()
            .title(title)
            .description(why)
            .unit(unit)
            .thresholds(_thresholds(_NEUTRAL))
            .calculate(False)
            .cell_gap(1)
            .color(
                heatmap.HeatmapColorOptions()
                .mode(heatmap_model.HeatmapColorMode.SCHEME)
                .scheme(scheme)
                .scale(heatmap_model.HeatmapColorScale.EXPONENTIAL)
                .exponent(0.5)
                .steps(64)
            )
            .y_axis(heatmap.YAxisConfig().unit(unit).axis_placement(common_model.AxisPlacement.LEFT))
            .show_legend()
            .mode(common_model.TooltipDisplayMode.SINGLE)
            .show_y_histogram()
        )
        return _queries(panel, [(expression, "{{le}}")], form=PromQueryFormat.HEATMAP)

    return Panel(make, width)


def bars(
    title: str, queries: Sequence[Query], unit: str, why: str, *, width: int = 8, steps: Steps = _NEUTRAL,
    most: float | None = None,
) -> Panel:  # fmt: skip
    """Values now, side by side."""

    def make() -> Any:
        panel = (
            bargauge.Panel()
            .title(title)
            .description(why)
            .unit(unit)
            .min(0)
            .thresholds(_thresholds(steps))
            .display_mode(common_model.BarGaugeDisplayMode.BASIC)
            .orientation(common_model.VizOrientation.HORIZONTAL)
            .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
            .no_value("–")
        )
        if most is not None:
            panel = panel.max(most)
        return _queries(panel, queries, form=PromQueryFormat.TIME_SERIES, instant=True)

    return Panel(make, width)


def rows_table(
    title: str, expression: str, unit: str, why: str, *, width: int = 8, hide: Sequence[str] = ()
) -> Panel:
    """Label sets as rows, with their value."""

    def make() -> Any:
        panel = (
            table.Panel()
            .title(title)
            .description(why)
            .unit(unit)
            .thresholds(_thresholds(_NEUTRAL))
            .filterable(True)
            .cell_height(common_model.TableCellHeight.SM)
            .with_transformation(
                model.DataTransformerConfig(
                    id_val="organize",
                    options={"excludeByName": dict.fromkeys(("Time", "__name__", *hide), True)},
                )
            )
        )
        return _queries(panel, [(expression, "")], form=PromQueryFormat.TABLE, instant=True)

    return Panel(make, width)


def _legend() -> common.VizLegendOptions:
    return (
        common.VizLegendOptions()
        .display_mode(common_model.LegendDisplayMode.LIST)
        .placement(common_model.LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs([])
    )


def _tooltip() -> common.VizTooltipOptions:
    return (
        common.VizTooltipOptions()
        .mode(common_model.TooltipDisplayMode.MULTI)
        .sort(common_model.SortOrder.DESCENDING)
    )
