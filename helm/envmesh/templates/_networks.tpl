{{/* Parts of NetworkPolicies. */}}

{{- define "envmesh.dnsEgress" -}}
- to:
    {{- toYaml .Values.networkPolicy.dns.to | nindent 4 }}
  ports:
    - port: 53
      protocol: UDP
    - port: 53
      protocol: TCP
{{- end -}}

{{/* The API server: its address cannot be selected by labels. */}}
{{- define "envmesh.apiServerEgress" -}}
- {{- with .Values.networkPolicy.apiServer.to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  ports:
    {{- range .Values.networkPolicy.apiServer.ports }}
    - port: {{ int . }}
      protocol: TCP
    {{- end }}
{{- end -}}

{{/* Pods of one component of this release. Takes (dict "root" $ "component" C). */}}
{{- define "envmesh.peer" -}}
- podSelector:
    matchLabels:
      {{- include "envmesh.selector" .root | nindent 6 }}
      app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "envmesh.metricsIngress" -}}
{{- if .Values.networkPolicy.metricsFrom }}
- from:
    {{- toYaml .Values.networkPolicy.metricsFrom | nindent 4 }}
  ports:
    - port: metrics
      protocol: TCP
{{- end }}
{{- end -}}

{{/* An address as a string of its bits: 32 of IPv4, 128 of IPv6. */}}
{{- define "envmesh.addressBits" -}}
{{- if contains ":" . -}}
  {{- $halves := splitList "::" . -}}
  {{- $left := without (splitList ":" (first $halves)) "" -}}
  {{- $right := without (splitList ":" (join "" (rest $halves))) "" -}}
  {{- $zeros := list -}}
  {{- range until (sub 8 (add (len $left) (len $right)) | int) }}{{ $zeros = append $zeros "0" }}{{ end -}}
  {{- range concat $left $zeros $right }}{{ printf "%016b" (printf "0x%s" . | int64) }}{{ end -}}
{{- else -}}
  {{- range splitList "." . }}{{ printf "%08b" (int64 .) }}{{ end -}}
{{- end -}}
{{- end -}}

{{/* The bits of a CIDR that all its addresses share. */}}
{{- define "envmesh.networkBits" -}}
{{- $parts := splitList "/" . -}}
{{- substr 0 (index $parts 1 | int) (include "envmesh.addressBits" (first $parts)) -}}
{{- end -}}

{{/* Where clouds answer a machine with its credentials. */}}
{{- define "envmesh.metadataAddresses" -}}
["169.254.169.254/32", "100.100.100.200/32", "fd00:ec2::254/128", "fd20:ce::254/128", "fe80::a9fe:a9fe/128"]
{{- end -}}

{{/* One peer by CIDR, never the metadata address. Takes (dict "cidr" CIDR "except" LIST "where" TEXT). */}}
{{- define "envmesh.cidrPeer" -}}
{{- $except := .except | default list -}}
{{- $cidr := lower .cidr -}}
{{- if and (contains ":" $cidr) (contains "." $cidr) }}{{ fail (printf "%s: %s is an IPv4 address in IPv6's clothes; write it as IPv4" .where .cidr) }}{{ end -}}
{{- $mine := include "envmesh.networkBits" $cidr -}}
{{- range include "envmesh.metadataAddresses" . | fromJsonArray -}}
  {{- if and (eq (contains ":" .) (contains ":" $cidr)) (hasPrefix $mine (include "envmesh.networkBits" .)) -}}
    {{- if ge (len $mine) (ternary 64 24 (contains ":" .)) }}{{ fail (printf "%s: %s holds %s, a cloud's metadata address, which no host may reach" $.where $.cidr (splitList "/" . | first)) }}{{ end -}}
    {{- $except = append $except . | uniq -}}
  {{- end -}}
{{- end -}}
- ipBlock:
    cidr: {{ .cidr | quote }}
    {{- with $except }}
    except:
      {{- toYaml . | nindent 6 }}
    {{- end }}
{{- end -}}

{{/* What values name as places that pods may connect to: "egress", and "where" it stands. */}}
{{- define "envmesh.namedEgress" -}}
{{- $where := .where }}
{{- range $number, $rule := .egress }}
- to:
    {{- if $rule.cidr }}
    {{- include "envmesh.cidrPeer" (dict "cidr" $rule.cidr "except" $rule.except "where" (printf "%s.egress[%d].cidr" $where $number)) | nindent 4 }}
    {{- else }}
    - {{- toYaml (omit $rule "ports") | nindent 6 }}
    {{- end }}
  {{- with $rule.ports }}
  ports:
    {{- range . }}
    - port: {{ if kindIs "string" .port }}{{ .port }}{{ else }}{{ int .port }}{{ end }}
      protocol: {{ .protocol | default "TCP" }}
    {{- end }}
  {{- end }}
{{- end }}
{{- end }}
