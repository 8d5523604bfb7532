{{/* How one endpoint is scraped. Takes (dict "root" $ "of" COMPONENT). */}}
{{- define "envmesh.scrape" -}}
{{- $server := dict "broker" (include "envmesh.brokerHost" .root) "host" "envmesh-host" "autoscaler" "envmesh-autoscaler" -}}
interval: {{ .root.Values.metrics.interval }}
scrapeTimeout: {{ .root.Values.metrics.scrapeTimeout }}
{{- if and .root.Values.metrics.tls (include "envmesh.tls" .root) }}
scheme: https
tlsConfig:
  serverName: {{ index $server .of }}
  ca:
    secret:
      name: {{ include "envmesh.tlsSecret" (dict "root" .root "of" "autoscaler") }}
      key: ca.crt
{{- else }}
scheme: http
{{- end }}
{{- end -}}
