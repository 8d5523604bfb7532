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

{{/* An integer of an IPv4 address. */}}
{{- define "envmesh.addressNumber" -}}
{{- $bytes := splitList "." . -}}
{{- add (mul (index $bytes 0 | int64) 16777216) (mul (index $bytes 1 | int64) 65536) (mul (index $bytes 2 | int64) 256) (index $bytes 3 | int64) -}}
{{- end -}}

{{/* One peer by CIDR, never the metadata address. Takes (dict "cidr" CIDR "except" LIST "where" TEXT). */}}
{{- define "envmesh.cidrPeer" -}}
{{- $except := .except | default list -}}
{{- if contains ":" .cidr -}}
  {{- if hasPrefix "fd00:ec2:" (lower .cidr) }}{{ fail (printf "%s: %s is a cloud's metadata address, which no host may reach" .where .cidr) }}{{ end -}}
  {{- if eq .cidr "::/0" }}{{ $except = concat $except (list "fd00:ec2::254/128" "fe80::/10") | uniq }}{{ end -}}
{{- else -}}
  {{- $parts := splitList "/" .cidr -}}
  {{- $bits := index $parts 1 | int -}}
  {{- $divisor := 1 -}}
  {{- range until (sub 32 $bits | int) }}{{ $divisor = mul $divisor 2 }}{{ end -}}
  {{- $mine := include "envmesh.addressNumber" (index $parts 0) | int64 -}}
  {{- $metadata := include "envmesh.addressNumber" "169.254.169.254" | int64 -}}
  {{- if eq (div $mine $divisor) (div $metadata $divisor) -}}
    {{- if ge $bits 24 }}{{ fail (printf "%s: %s holds 169.254.169.254, a cloud's metadata address, which no host may reach" .where .cidr) }}{{ end -}}
    {{- $except = concat $except (list "169.254.169.254/32") | uniq -}}
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
