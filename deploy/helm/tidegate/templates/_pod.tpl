{{/*
A pod template with tidegate in it: your pod spec, the sidecar added.

  template: {{- include "tidegate.podTemplate" (dict "context" . "labels" $labels "spec" $spec) | nindent 4 }}

`spec` is your pod spec as a dict. What it says itself is kept: containers, init containers, volumes, a security context.
Your first container gets a preStop that sleeps for drainDelay, unless it has a lifecycle of its own.
*/}}
{{- define "tidegate.podTemplate" -}}
{{- $v := .context.Values.tidegate -}}
{{- $spec := deepCopy .spec -}}
{{- if hasKey $spec "hostNetwork" }}{{ if $spec.hostNetwork }}{{ fail "tidegate: hostNetwork would make its loopback the node's, and its control open to every process there" }}{{ end }}{{ end -}}
{{- $_ := set $spec "initContainers" (prepend (default (list) $spec.initContainers) (include "tidegate.sidecar" .context | fromYaml)) -}}
{{- $_ := set $spec "volumes" (concat (default (list) $spec.volumes) (include "tidegate.volumes" .context | fromYaml).volumes) -}}
{{- if not (hasKey $spec "automountServiceAccountToken") }}{{ $_ := set $spec "automountServiceAccountToken" false }}{{ end -}}
{{- $grace := include "tidegate.terminationGracePeriodSeconds" .context | int -}}
{{- if lt (default 0 $spec.terminationGracePeriodSeconds | int) $grace }}{{ $_ := set $spec "terminationGracePeriodSeconds" $grace }}{{ end -}}
{{- $security := dict "runAsNonRoot" true "runAsUser" (int $v.user) "runAsGroup" (int $v.user) "fsGroup" (int $v.user) "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- $_ := set $spec "securityContext" (merge (default (dict) $spec.securityContext) $security) -}}
{{- $app := first $spec.containers -}}
{{- if not (hasKey $app "lifecycle") }}{{ $_ := set $app "lifecycle" (dict "preStop" (dict "sleep" (dict "seconds" (int $v.drainDelay)))) }}{{ end -}}
metadata:
  labels: {{- .labels | toYaml | nindent 4 }}
  annotations:
    # A change of the configuration rolls the pods.
    tidegate/config: {{ include "tidegate.config" .context | sha256sum | trunc 16 | quote }}
spec: {{- $spec | toYaml | nindent 2 }}
{{- end }}

{{/* max(tidegate's preStop, the app's preStop and stop) + shutdown_grace + 5 s. */}}
{{- define "tidegate.terminationGracePeriodSeconds" -}}
{{- $v := .Values.tidegate -}}
{{- $ours := add $v.drainDelay $v.drainTimeout -}}
{{- $theirs := add $v.drainDelay $v.appStop -}}
{{- add (max $ours $theirs) $v.shutdownGrace 5 -}}
{{- end }}

{{- define "tidegate.name" -}}
{{ printf "%s-tidegate" .Release.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* An image by its digest where one is given, else by its tag. */}}
{{- define "tidegate.image" -}}
{{- $i := .Values.tidegate.image -}}
{{- if $i.digest }}{{ $i.repository }}@{{ $i.digest }}{{ else }}{{ $i.repository }}:{{ default "0.1.0" $i.tag }}{{ end -}}
{{- end }}

{{- define "tidegate.config" -}}
{{- $v := .Values.tidegate -}}
shutdown_grace = "{{ int $v.shutdownGrace }}s"
drain_delay = "{{ int $v.drainDelay }}s"
{{ required "tidegate.config is empty: it is the whole tidegate.toml" $v.config | trim }}
{{- end }}

{{/* The native sidecar. */}}
{{- define "tidegate.sidecar" -}}
{{- $v := .Values.tidegate -}}
name: tidegate
image: {{ include "tidegate.image" . | quote }}
imagePullPolicy: {{ $v.image.pullPolicy }}
restartPolicy: Always
args: ["run", "--config", "/etc/tidegate/tidegate.toml"]
ports:
  - { name: tidegate, containerPort: {{ int $v.observePort }} }
  {{- with $v.ports }}{{ toYaml . | nindent 2 }}{{ end }}
# /livez, so that an unreachable store never keeps a pod from being scheduled anew.
startupProbe:
  httpGet: { path: /livez, port: tidegate }
  periodSeconds: 1
  failureThreshold: 30
livenessProbe:
  httpGet: { path: /livez, port: tidegate }
  periodSeconds: 10
  failureThreshold: 6
readinessProbe:
  httpGet: { path: /readyz, port: tidegate }
  periodSeconds: 2
  failureThreshold: 1
lifecycle:
  preStop:
    exec:
      command: ["/tidegate", "drain", "--close", "--timeout", "{{ int $v.drainTimeout }}s"]
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  capabilities:
    drop: ["ALL"]
resources: {{- toYaml $v.resources | nindent 2 }}
{{- with $v.env }}
env: {{- toYaml . | nindent 2 }}
{{- end }}
volumeMounts:
  - { name: tidegate-config, mountPath: /etc/tidegate, readOnly: true }
  - { name: tidegate-state, mountPath: /var/lib/tidegate }
  {{- if $v.tokenAudience }}
  - { name: tidegate-token, mountPath: /var/run/secrets/tidegate, readOnly: true }
  {{- end }}
  {{- if $v.publishTo }}
  - { name: tidegate-published, mountPath: {{ $v.publishTo | quote }} }
  {{- end }}
  {{- with $v.volumeMounts }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end }}

{{- define "tidegate.volumes" -}}
{{- $v := .Values.tidegate -}}
volumes:
  - name: tidegate-config
    configMap: { name: {{ include "tidegate.name" . }} }
  - name: tidegate-state
    emptyDir: { sizeLimit: {{ $v.stateSize | quote }} }
  {{- if $v.tokenAudience }}
  - name: tidegate-token
    projected:
      sources:
        - serviceAccountToken:
            path: token
            audience: {{ $v.tokenAudience | quote }}
            expirationSeconds: 3600
  {{- end }}
  {{- if $v.publishTo }}
  - name: tidegate-published
    emptyDir: { medium: Memory, sizeLimit: 1Mi }
  {{- end }}
{{- end }}

{{/* What stands beside the pod: the configuration, and what is enabled of the rest. `labels` select the pods. */}}
{{- define "tidegate.resources" -}}
{{- $v := .context.Values.tidegate -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "tidegate.name" .context }}
data:
  tidegate.toml: | {{- include "tidegate.config" .context | nindent 4 }}
{{- if $v.podMonitor.enabled }}
---
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata:
  name: {{ include "tidegate.name" .context }}
  {{- with $v.podMonitor.labels }}
  labels: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  selector:
    matchLabels: {{- .labels | toYaml | nindent 6 }}
  podMetricsEndpoints:
    - port: tidegate
      path: /metrics
      interval: {{ $v.podMonitor.interval }}
{{- end }}
{{- if $v.prometheusRule.enabled }}
---
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: {{ include "tidegate.name" .context }}
  {{- with $v.prometheusRule.labels }}
  labels: {{- toYaml . | nindent 4 }}
  {{- end }}
spec: {{- include "tidegate.rules" $v.prometheusRule | nindent 2 }}
{{- end }}
{{- if $v.networkPolicy.enabled }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "tidegate.name" .context }}
spec:
  podSelector:
    matchLabels: {{- .labels | toYaml | nindent 6 }}
  policyTypes: ["Ingress", "Egress"]
  ingress: {{- toYaml $v.networkPolicy.ingress | nindent 4 }}
  egress: {{- toYaml $v.networkPolicy.egress | nindent 4 }}
{{- end }}
{{- end }}
