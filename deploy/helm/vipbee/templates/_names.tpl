{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}
{{- define "vipbee.labels" -}}
app.kubernetes.io/name: vipbee
app.kubernetes.io/component: service-proxy
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end -}}

{{- define "vipbee.selector" -}}
app.kubernetes.io/name: vipbee
app.kubernetes.io/component: service-proxy
{{- end -}}

{{- define "vipbee.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- /* The agent's --config file: what the chart decides, then what the operator set. */ -}}
{{- define "vipbee.config" -}}
kubeconfig: in-cluster
master:
{{- range .Values.apiServers }}
  - {{ . | quote }}
{{- end }}
cgroup-root: /run/vipbee/cgroup
{{- with .Values.agent }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* ADDRESS:PORT or [ADDRESS]:PORT → the port */ -}}
{{- define "vipbee.healthzPort" -}}
{{ index .Values.agent "healthz-bind-address" | default "0.0.0.0:10256" | splitList ":" | last }}
{{- end -}}

{{- /* Where kubelet asks: loopback, unless one address is bound. */ -}}
{{- define "vipbee.healthzHost" -}}
{{- $address := index .Values.agent "healthz-bind-address" | default "0.0.0.0:10256" -}}
{{- $host := regexReplaceAll "^\\[?(.*?)\\]?:[0-9]+$" $address "${1}" -}}
{{- if has $host (list "0.0.0.0" "::") }}127.0.0.1{{ else }}{{ $host }}{{ end -}}
{{- end -}}
