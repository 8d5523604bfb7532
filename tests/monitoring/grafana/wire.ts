// Grafana's types as they are in JSON, where a member of an enumeration is its value.
import type { Dashboard, Panel } from '@grafana/schema/dist/esm/raw/dashboard/x/dashboard_types.gen';
import type { Options as BarGauge } from '@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen';
import type { Options as Heatmap } from '@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen';
import type { Options as Stat } from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type { Options as Table } from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
import type { Options as TimeSeries } from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';
import type { DataQuery } from '@grafana/schema/dist/esm/common/common.gen';

export type Wire<T> = T extends string
  ? `${T}`
  : T extends number | boolean | null | undefined
    ? T
    : T extends (infer U)[]
      ? Wire<U>[]
      : T extends object
        ? { [K in keyof T]: Wire<T[K]> }
        : T;

export type WireDashboard = Wire<Dashboard>;
export type WirePanel = Wire<Panel>;
export type WireTarget = Wire<DataQuery> & { expr: string; range: boolean; instant: boolean; legendFormat: string; exemplar?: boolean; format: 'time_series' | 'table' | 'heatmap' };
export interface WireOptions {
  bargauge: Partial<Wire<BarGauge>>;
  heatmap: Partial<Wire<Heatmap>>;
  stat: Partial<Wire<Stat>>;
  table: Partial<Wire<Table>>;
  timeseries: Partial<Wire<TimeSeries>>;
}
