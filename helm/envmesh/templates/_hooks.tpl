{{/* The chart's Jobs. */}}

{{- define "envmesh.hookName" -}}
{{ include "envmesh.fullname" .root }}-{{ .name }}
{{- end -}}

{{- define "envmesh.hookAnnotations" -}}
helm.sh/hook: {{ .on }}
helm.sh/hook-weight: {{ .weight | quote }}
helm.sh/hook-delete-policy: {{ .delete | default "before-hook-creation,hook-succeeded" }}
{{- end -}}

{{/* A Job that runs one command of the image.
Takes (dict "root" $ "name" NAME "on" HOOKS "args" LIST "account" NAME "api" BOOL "tls" BOOL "seconds" N). */}}
{{- define "envmesh.hookJob" -}}
{{- $values := .root.Values.hooks -}}
apiVersion: batch/v1
kind: Job
metadata:
  {{- include "envmesh.metadata" (dict "root" .root "name" (include "envmesh.hookName" .) "component" "hook" "annotations" (include "envmesh.hookAnnotations" (dict "on" .on "weight" "0") | fromYaml)) | nindent 2 }}
spec:
  backoffLimit: {{ int .retries }}
  activeDeadlineSeconds: {{ int .seconds }}
  template:
    metadata:
      labels:
        {{- include "envmesh.labels" .root | nindent 8 }}
        app.kubernetes.io/component: hook
    spec:
      {{- include "envmesh.podSpec" (dict "root" .root "values" $values) | nindent 6 }}
      restartPolicy: Never
      serviceAccountName: {{ .account | default "default" }}
      containers:
        - name: {{ .name }}
          image: {{ include "envmesh.image" (dict "root" .root "image" $values.image) }}
          imagePullPolicy: {{ include "envmesh.pullPolicy" (dict "root" .root "image" $values.image) }}
          command: ["envmesh"]
          args:
            {{- toYaml .args | nindent 12 }}
          securityContext:
            {{- include "envmesh.containerSecurity" .root | nindent 12 }}
          env:
            - name: HOME
              value: /tmp
            {{- with $values.extraEnv }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
            {{- with .env }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          resources:
            {{- toYaml $values.resources | nindent 12 }}
          volumeMounts:
            - name: tmp
              mountPath: /tmp
            {{- if .api }}
            {{- include "envmesh.apiTokenMount" .root | nindent 12 }}
            {{- end }}
            {{- if and .tls (include "envmesh.tls" .root) }}
            - name: tls
              mountPath: /etc/envmesh/tls
              readOnly: true
            {{- end }}
      volumes:
        - name: tmp
          emptyDir:
            sizeLimit: 64Mi
        {{- if .api }}
        {{- include "envmesh.apiTokenVolume" .root | nindent 8 }}
        {{- end }}
        {{- if and .tls (include "envmesh.tls" .root) }}
        - name: tls
          secret:
            secretName: {{ include "envmesh.tlsSecret" (dict "root" .root "of" "autoscaler") }}
            defaultMode: 0440
        {{- end }}
{{- end -}}

{{/* How a Job reaches the fleet. */}}
{{- define "envmesh.fleetArguments" -}}
- --mesh={{ include "envmesh.fleetAddress" . }}
{{- if include "envmesh.tls" . }}
- --ca=/etc/envmesh/tls/ca.crt
- --certificate=/etc/envmesh/tls/tls.crt
- --private-key=/etc/envmesh/tls/tls.key
{{- end }}
{{- end -}}
