{{/* Names and labels. */}}

{{- define "envmesh.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* The prefix of every name: short enough that a pool's name fits behind it. */}}
{{- define "envmesh.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 30 | trimSuffix "-" -}}
{{- else if contains (include "envmesh.name" .) .Release.Name -}}
{{- .Release.Name | trunc 30 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "envmesh.name" .) | trunc 30 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "envmesh.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: envmesh
{{ include "envmesh.selector" . }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "envmesh.selector" -}}
app.kubernetes.io/name: {{ include "envmesh.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* metadata of an object. Takes (dict "root" $ "name" NAME "component" COMPONENT "values" VALUES "annotations" DICT). */}}
{{- define "envmesh.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "envmesh.labels" .root | nindent 2 }}
  {{- with .component }}
  app.kubernetes.io/component: {{ . }}
  {{- end }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with (.values | default dict).labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with (mergeOverwrite (dict) .root.Values.commonAnnotations ((.values | default dict).annotations | default dict) (.annotations | default dict)) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "envmesh.image" -}}
{{- $image := mergeOverwrite (deepCopy .root.Values.image) (.image | default dict) -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "envmesh.pullPolicy" -}}
{{- (mergeOverwrite (deepCopy .root.Values.image) (.image | default dict)).pullPolicy -}}
{{- end -}}

{{/* All pools, by name, as YAML: poolDefaults with each one's own on top. One that was set to null is none. */}}
{{- define "envmesh.pools" -}}
{{- $pools := dict -}}
{{- range $name, $own := .Values.pools -}}
{{- if not (kindIs "invalid" $own) -}}
{{- $_ := set $pools $name (mustMergeOverwrite (deepCopy $.Values.poolDefaults) (deepCopy $own)) -}}
{{- end -}}
{{- end -}}
{{- toYaml $pools -}}
{{- end -}}

{{- define "envmesh.poolName" -}}
{{ include "envmesh.fullname" .root }}-pool-{{ .name }}
{{- end -}}

{{/* Names of the Secrets: given ones, or those that the hook or cert-manager makes. Takes (dict "root" $ "of" PART). */}}
{{- define "envmesh.tlsSecret" -}}
{{- $given := index .root.Values.tls.existingSecrets .of -}}
{{- $given | default (printf "%s-%s-%s" (include "envmesh.fullname" .root) .of (ternary "cert" "tls" (eq .root.Values.tls.mode "certManager"))) -}}
{{- end -}}

{{- define "envmesh.leaseKeysSecret" -}}
{{- .Values.keys.existingLeaseSecret | default (printf "%s-lease-keys" (include "envmesh.fullname" .)) -}}
{{- end -}}

{{- define "envmesh.sealKeysSecret" -}}
{{- .Values.keys.existingSealSecret | default (printf "%s-seal-keys" (include "envmesh.fullname" .)) -}}
{{- end -}}

{{- define "envmesh.credentialsSecret" -}}
{{- .Values.credentials.existingSecret | default (printf "%s-%s" (include "envmesh.fullname" .) (ternary "tenants" "credentials" (gt (len .Values.credentials.tenants) 0))) -}}
{{- end -}}

{{- define "envmesh.trainerSecret" -}}
{{ include "envmesh.fullname" . }}-trainer-token
{{- end -}}

{{- define "envmesh.tls" -}}
{{- if ne .Values.tls.mode "off" }}true{{ end -}}
{{- end -}}

{{/* Whether the install hook has anything to make. */}}
{{- define "envmesh.makesKeys" -}}
{{- if and .Values.keys.generate (or (eq .Values.tls.mode "generated") (not .Values.keys.existingLeaseSecret) (not .Values.keys.existingSealSecret) (and (eq .Values.credentials.mode "tokens") (not .Values.credentials.existingSecret) (not .Values.credentials.tenants))) }}true{{ end -}}
{{- end -}}

{{- define "envmesh.brokerHost" -}}
{{ include "envmesh.fullname" . }}-broker.{{ .Release.Namespace }}.svc
{{- end -}}

{{/* Where hosts, autoscaler and operators reach the broker. */}}
{{- define "envmesh.fleetAddress" -}}
{{ include "envmesh.brokerHost" . }}:{{ if include "envmesh.tls" . }}7071{{ else }}7070{{ end }}
{{- end -}}

{{- define "envmesh.serviceAccount" -}}
{{- .values.serviceAccount.name | default .default -}}
{{- end -}}

{{/* Seconds between SIGTERM and SIGKILL of a host: checkpoint + drain deadline + 15 s. Takes a pool's values. */}}
{{- define "envmesh.graceSeconds" -}}
{{ add (int .drain.checkpoint) (int .drain.deadline) 15 }}
{{- end -}}

{{- define "envmesh.priorityClass" -}}
{{- if .values.priorityClassName -}}
{{ .values.priorityClassName }}
{{- else if and .root.Values.priorityClass.create (eq .root.Values.rbac.scope "cluster") -}}
{{ .root.Values.priorityClass.name | default (printf "%s-%s" .root.Release.Namespace (include "envmesh.fullname" .root)) }}
{{- end -}}
{{- end -}}

{{/* Secrets that values name and somebody else makes, as a JSON list. */}}
{{- define "envmesh.namedSecrets" -}}
{{- $named := list .Values.keys.existingLeaseSecret .Values.keys.existingSealSecret .Values.credentials.existingSecret -}}
{{- if eq .Values.tls.mode "existing" }}{{ $named = concat $named (values .Values.tls.existingSecrets) }}{{ end -}}
{{- if .Values.gateway.enabled }}{{ $named = append $named .Values.gateway.certificateSecret }}{{ end -}}
{{- concat $named .Values.image.pullSecrets | compact | uniq | sortAlpha | toJson -}}
{{- end -}}
