{{/* What broker and autoscaler are told about the pools: as JSON, and only what concerns each. */}}

{{/* name@version of a pool's environments, as a JSON list. Takes a pool's values. */}}
{{- define "envmesh.environments" -}}
{{- $keys := list -}}
{{- range .environments -}}
{{- $keys = append $keys (printf "%s@%s" .name (.version | toString)) -}}
{{- end -}}
{{- toJson $keys -}}
{{- end -}}

{{- define "envmesh.brokerPools" -}}
{{- $pools := list -}}
{{- range $name, $pool := include "envmesh.pools" . | fromYaml -}}
{{- $pools = append $pools (dict "name" $name "environments" (include "envmesh.environments" $pool | fromJsonArray) "slots" (int $pool.slots) "max_hosts" (int $pool.scaling.max) "retiring" $pool.retiring) -}}
{{- end -}}
{{- toPrettyJson $pools -}}
{{- end -}}

{{- define "envmesh.autoscalerPools" -}}
{{- $pools := list -}}
{{- range $name, $pool := include "envmesh.pools" . | fromYaml -}}
{{- $scaling := $pool.scaling -}}
{{- if has $scaling.mode (list "direct" "keda") -}}
{{- $pools = append $pools (dict
      "name" $name
      "deployment" (include "envmesh.poolName" (dict "root" $ "name" $name))
      "mode" $scaling.mode
      "environments" (include "envmesh.environments" $pool | fromJsonArray)
      "slots" (int $pool.slots)
      "min_hosts" (ternary 0 (int $scaling.min) $pool.retiring)
      "max_hosts" (int $scaling.max)
      "buffer_min" (int $scaling.bufferMin)
      "buffer_factor" $scaling.bufferFactor
      "target_fill" $scaling.targetFill
      "look_back" (int $scaling.lookBack)
      "idle_after" (int $scaling.idleAfter)
      "drain_patience" (int $scaling.drainPatience)
      "drain_budget" (int $pool.rollout.drainBudget)
      "retiring" $pool.retiring) -}}
{{- end -}}
{{- end -}}
{{- toPrettyJson (dict "max_hosts" (int .Values.autoscaler.maxHosts) "pools" $pools) -}}
{{- end -}}

{{/* What an operator says to the autoscaler about one pool, as annotations. Takes a pool's values. */}}
{{- define "envmesh.poolAnnotations" -}}
envmesh.dev/paused: {{ .scaling.paused | quote }}
envmesh.dev/dry-run: {{ .scaling.dryRun | quote }}
envmesh.dev/drain-budget: {{ int .rollout.drainBudget | quote }}
envmesh.dev/retiring: {{ .retiring | quote }}
{{- end -}}

{{/* "true" where some pool is scaled in this mode. Takes (dict "root" $ "mode" MODE). */}}
{{- define "envmesh.anyPool" -}}
{{- $found := "" -}}
{{- range $name, $pool := include "envmesh.pools" .root | fromYaml -}}
{{- if eq $pool.scaling.mode $.mode -}}{{- $found = "true" -}}{{- end -}}
{{- end -}}
{{- $found -}}
{{- end -}}
