{{/* What the pods of all components have alike. */}}

{{/* Pod Security "restricted". */}}
{{- define "envmesh.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "envmesh.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
capabilities:
  drop:
    - ALL
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* The common part of a pod's spec. Takes (dict "root" $ "values" VALUES). */}}
{{- define "envmesh.podSpec" -}}
enableServiceLinks: false
automountServiceAccountToken: false
{{- with (concat (.root.Values.image.pullSecrets | default list) ((.values.image | default dict).pullSecrets | default list) | uniq) }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  {{- include "envmesh.podSecurity" . | nindent 2 }}
{{- with include "envmesh.priorityClass" . }}
priorityClassName: {{ . }}
{{- end }}
{{- range $field := list "runtimeClassName" "schedulerName" }}
{{- with index $.values $field }}
{{ $field }}: {{ . }}
{{- end }}
{{- end }}
{{- range $field := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" }}
{{- with index $.values $field }}
{{ $field }}:
  {{- tpl (toYaml .) $.root | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* One variable a setting: prefix, and the name in capitals. Takes (dict "prefix" P "settings" DICT). */}}
{{- define "envmesh.settings" -}}
{{- range $name, $value := .settings }}
{{- if not (kindIs "invalid" $value) }}
- name: {{ $.prefix }}{{ $name | snakecase | upper }}
  value: {{ include "envmesh.plain" $value | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* A scalar or a list as a setting's text: never 1e+06. */}}
{{- define "envmesh.plain" -}}
{{- if kindIs "slice" . -}}
{{ join "," . }}
{{- else if and (kindIs "float64" .) (eq (floor .) .) -}}
{{ int64 . }}
{{- else -}}
{{ . }}
{{- end -}}
{{- end -}}

{{/* Variables of a service's ports. Takes (dict "root" $ "prefix" P "of" PART). */}}
{{- define "envmesh.portSettings" -}}
{{- if include "envmesh.tls" .root }}
- name: {{ .prefix }}TLS_CERTIFICATE
  value: /etc/envmesh/tls/tls.crt
- name: {{ .prefix }}TLS_PRIVATE_KEY
  value: /etc/envmesh/tls/tls.key
- name: {{ .prefix }}TLS_AUTHORITY
  value: /etc/envmesh/tls/ca.crt
{{- else }}
- name: {{ .prefix }}PLAINTEXT_BEYOND_LOOPBACK
  value: "true"
{{- end }}
- name: {{ .prefix }}HEALTH_LISTEN
  value: "0.0.0.0:8080"
- name: {{ .prefix }}METRICS_LISTEN
  value: "0.0.0.0:9090"
- name: {{ .prefix }}METRICS_PLAINTEXT
  value: {{ not .root.Values.metrics.tls | quote }}
{{- end -}}

{{/* Probes ask the health port. Takes (dict "values" VALUES). */}}
{{- define "envmesh.probes" -}}
{{- $probes := .values.probes | default dict }}
startupProbe:
  httpGet:
    path: /live
    port: health
  {{- toYaml (mergeOverwrite (dict "periodSeconds" 1 "failureThreshold" 300 "timeoutSeconds" 2) ($probes.startup | default dict)) | nindent 2 }}
livenessProbe:
  httpGet:
    path: /live
    port: health
  {{- toYaml (mergeOverwrite (dict "periodSeconds" 10 "failureThreshold" 6 "timeoutSeconds" 5) ($probes.liveness | default dict)) | nindent 2 }}
readinessProbe:
  httpGet:
    path: /ready
    port: health
  {{- toYaml (mergeOverwrite (dict "periodSeconds" 2 "failureThreshold" 3 "timeoutSeconds" 2) ($probes.readiness | default dict)) | nindent 2 }}
{{- end -}}

{{/* /tmp, and the certificate. Takes (dict "root" $ "values" VALUES "of" PART). */}}
{{- define "envmesh.volumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: {{ .values.tmpSize | default "256Mi" }}
{{- if include "envmesh.tls" .root }}
- name: tls
  secret:
    secretName: {{ include "envmesh.tlsSecret" . }}
    defaultMode: 0440
{{- end }}
{{- with .values.extraVolumes }}
{{ tpl (toYaml .) $.root }}
{{- end }}
{{- end -}}

{{- define "envmesh.volumeMounts" -}}
- name: tmp
  mountPath: /tmp
{{- if include "envmesh.tls" .root }}
- name: tls
  mountPath: /etc/envmesh/tls
  readOnly: true
{{- end }}
{{- with .values.extraVolumeMounts }}
{{ tpl (toYaml .) $.root }}
{{- end }}
{{- end -}}

{{/* A volume with a short-lived token of the pod's ServiceAccount, where no token is mounted by itself. */}}
{{- define "envmesh.apiTokenVolume" -}}
- name: api-token
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 3600
      - configMap:
          name: kube-root-ca.crt
          items:
            - key: ca.crt
              path: ca.crt
      - downwardAPI:
          items:
            - path: namespace
              fieldRef:
                fieldPath: metadata.namespace
{{- end -}}

{{- define "envmesh.apiTokenMount" -}}
- name: api-token
  mountPath: /var/run/secrets/kubernetes.io/serviceaccount
  readOnly: true
{{- end -}}

{{/* Whether the broker asks the API server about trainers' ServiceAccount tokens. */}}
{{- define "envmesh.tokenReviews" -}}
{{- if and .Values.credentials.serviceAccounts.enabled (eq .Values.rbac.scope "cluster") }}true{{ end -}}
{{- end -}}
