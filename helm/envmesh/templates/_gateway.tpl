{{/* Parts of the gateway: Envoy, and its configuration. */}}

{{- define "envmesh.gatewayName" -}}
{{ include "envmesh.fullname" . }}-gateway
{{- end -}}

{{/* Names on its certificate, as a JSON list. */}}
{{- define "envmesh.gatewayNames" -}}
{{- $name := include "envmesh.gatewayName" . -}}
{{- toJson (list $name (printf "%s.%s" $name .Release.Namespace) (printf "%s.%s.svc" $name .Release.Namespace) (printf "%s.%s.svc.%s" $name .Release.Namespace .Values.clusterDomain)) -}}
{{- end -}}

{{/* The headless name of all hosts of this release. */}}
{{- define "envmesh.hostsHost" -}}
{{ include "envmesh.fullname" . }}-hosts.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}
{{- end -}}

{{/* TLS towards a service of the mesh, as an Envoy transport socket. Takes (dict "name" NAME-ON-ITS-CERTIFICATE). */}}
{{- define "envmesh.gatewayUpstreamTls" -}}
transport_socket:
  name: envoy.transport_sockets.tls
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
    sni: {{ .name }}
    common_tls_context:
      tls_params:
        tls_minimum_protocol_version: TLSv1_2
      alpn_protocols: [h2]
      combined_validation_context:
        default_validation_context:
          match_typed_subject_alt_names:
            - san_type: DNS
              matcher:
                exact: {{ .name }}
        validation_context_sds_secret_config:
          name: authority
          sds_config:
            path_config_source:
              path: /etc/envoy/authority.yaml
            resource_api_version: V3
{{- end -}}

{{/* HTTP/2 towards a service, without an end to what takes long. */}}
{{- define "envmesh.gatewayUpstreamHttp" -}}
connect_timeout: 3s
per_connection_buffer_limit_bytes: 1048576
circuit_breakers:
  thresholds:
    - max_connections: 100000
      max_pending_requests: 100000
      max_requests: 1000000
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    common_http_protocol_options:
      idle_timeout: 600s
    explicit_http_config:
      http2_protocol_options:
        # A dead host is noticed, as a dead trainer is below; pings go on where nothing else is said.
        connection_keepalive:
          interval: 20s
          timeout: 10s
        initial_stream_window_size: 1048576
        initial_connection_window_size: 16777216
{{- end -}}

{{/* A cluster by DNS, looked up again and again whatever the answer's TTL says. Takes (dict "milliseconds" N "single" BOOL). */}}
{{- define "envmesh.gatewayDns" -}}
{{- $seconds := printf "%.3fs" (divf (float64 .milliseconds) 1000.0) -}}
cluster_type:
  name: envoy.cluster.dns
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster
    dns_refresh_rate: {{ $seconds }}
    dns_failure_refresh_rate:
      base_interval: {{ $seconds }}
      max_interval: {{ $seconds }}
    dns_lookup_family: V4_PREFERRED
    all_addresses_in_single_endpoint: {{ .single }}
{{- end -}}

{{- define "envmesh.gatewayConfig" -}}
node:
  id: gateway
  cluster: envmesh
admin:
  address:
    socket_address:
      address: 127.0.0.1
      port_value: 9901
overload_manager:
  resource_monitors:
    - name: envoy.resource_monitors.global_downstream_max_connections
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig
        max_active_downstream_connections: {{ int .Values.gateway.maxConnections }}
static_resources:
  listeners:
    - name: trainers
      address:
        socket_address:
          address: 0.0.0.0
          port_value: 8443
      per_connection_buffer_limit_bytes: 1048576
      filter_chains:
        - transport_socket:
            name: envoy.transport_sockets.tls
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
              common_tls_context:
                tls_params:
                  tls_minimum_protocol_version: TLSv1_2
                alpn_protocols: [h2]
                tls_certificate_sds_secret_configs:
                  - name: certificate
                    sds_config:
                      path_config_source:
                        path: /etc/envoy/certificate.yaml
                      resource_api_version: V3
          filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: trainers
                codec_type: HTTP2
                server_header_transformation: PASS_THROUGH
                use_remote_address: true
                # An episode may think for hours: nothing ends for being long or quiet. Who is gone is found by pings.
                stream_idle_timeout: 0s
                request_headers_timeout: 10s
                drain_timeout: {{ int .Values.gateway.drainSeconds }}s
                common_http_protocol_options:
                  idle_timeout: 0s
                  headers_with_underscores_action: REJECT_REQUEST
                http2_protocol_options:
                  max_concurrent_streams: 1024
                  initial_stream_window_size: 1048576
                  initial_connection_window_size: 16777216
                  connection_keepalive:
                    interval: 20s
                    timeout: 10s
                route_config:
                  name: mesh
                  validate_clusters: true
                  virtual_hosts:
                    - name: mesh
                      domains: ["*"]
                      routes:
                        - match:
                            prefix: /envmesh.v1.PlacementService/
                          route:
                            cluster: broker
                            timeout: 0s
                            idle_timeout: 0s
                          # By this the broker knows where its caller reaches hosts: here.
                          request_headers_to_add:
                            - header:
                                key: envmesh-gateway
                                value: "%REQ(:AUTHORITY)%"
                              append_action: OVERWRITE_IF_EXISTS_OR_ADD
                          typed_per_filter_config:
                            envoy.filters.http.stateful_session:
                              "@type": type.googleapis.com/envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute
                              disabled: true
                        - match:
                            prefix: /envmesh.v1.EnvironmentService/
                            headers:
                              - name: envmesh-host
                                present_match: true
                          route:
                            cluster: hosts
                            timeout: 0s
                            idle_timeout: 0s
                          request_headers_to_remove: [authorization]
                        - match:
                            prefix: /envmesh.v1.EnvironmentService/
                          direct_response:
                            status: 403
                            body:
                              inline_string: "this call names no host: send the metadata that came with the lease"
                http_filters:
                  # Which host is meant is said by the metadata that came with the lease. Strict: that host or none.
                  - name: envoy.filters.http.stateful_session
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.stateful_session.v3.StatefulSession
                      strict: true
                      session_state:
                        name: envoy.http.stateful_session.header
                        typed_config:
                          "@type": type.googleapis.com/envoy.extensions.http.stateful_session.header.v3.HeaderBasedSessionState
                          name: envmesh-host
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
    {{- range $name, $port := dict "health" 8080 "metrics" 9090 }}
    - name: {{ $name }}
      ignore_global_conn_limit: true
      address:
        socket_address:
          address: 0.0.0.0
          port_value: {{ $port }}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: {{ $name }}
                route_config:
                  virtual_hosts:
                    - name: {{ $name }}
                      domains: ["*"]
                      routes:
                        {{- if eq $name "health" }}
                        - match:
                            path: /live
                          direct_response:
                            status: 200
                        - match:
                            path: /ready
                          route:
                            cluster: admin
                        {{- else }}
                        - match:
                            path: /metrics
                          route:
                            cluster: admin
                            prefix_rewrite: /stats/prometheus
                        {{- end }}
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
    {{- end }}
  clusters:
    - name: broker
      {{- include "envmesh.gatewayDns" (dict "milliseconds" 5000 "single" true) | nindent 6 }}
      {{- include "envmesh.gatewayUpstreamHttp" . | nindent 6 }}
      {{- if include "envmesh.tls" . }}
      {{- include "envmesh.gatewayUpstreamTls" (dict "name" (include "envmesh.brokerHost" .)) | nindent 6 }}
      {{- end }}
      load_assignment:
        cluster_name: broker
        endpoints:
          - lb_endpoints:
              - endpoint:
                  address:
                    socket_address:
                      address: {{ include "envmesh.brokerHost" . }}.{{ .Values.clusterDomain }}
                      port_value: 7070
    - name: hosts
      # Every host of the release by its address. One that drains or is not ready is there until it ends.
      {{- include "envmesh.gatewayDns" (dict "milliseconds" .Values.gateway.dnsRefreshMilliseconds "single" false) | nindent 6 }}
      {{- include "envmesh.gatewayUpstreamHttp" . | nindent 6 }}
      {{- if include "envmesh.tls" . }}
      {{- include "envmesh.gatewayUpstreamTls" (dict "name" "envmesh-host") | nindent 6 }}
      {{- end }}
      load_assignment:
        cluster_name: hosts
        endpoints:
          - lb_endpoints:
              - endpoint:
                  address:
                    socket_address:
                      address: {{ include "envmesh.hostsHost" . }}
                      port_value: 7070
    - name: admin
      type: STATIC
      connect_timeout: 1s
      load_assignment:
        cluster_name: admin
        endpoints:
          - lb_endpoints:
              - endpoint:
                  address:
                    socket_address:
                      address: 127.0.0.1
                      port_value: 9901
{{- end -}}
