{{/* The alerts, as in deploy/kubernetes/components/monitoring/prometheusrule.yaml: the peers suite compares them. */}}
{{- define "tidegate.rules" -}}
groups:
  - name: tidegate
    rules:
      - alert: TidegateHeldForLong
        expr: max by (namespace, pod, stream, controller) (tidegate_holds) > 0
        for: {{ .heldFor }}
        labels: { severity: warning }
        annotations:
          summary: "{{ "{{ $labels.stream }}" }} has been held for long by {{ "{{ $labels.controller }}" }}"
          runbook: docs/operations.md#tidegateheldforlong
      - alert: TidegateStuckPausing
        expr: max by (namespace, pod, stream) (tidegate_stream_state{state="pausing"}) == 1
        for: 2m
        labels: { severity: critical }
        annotations:
          summary: "{{ "{{ $labels.stream }}" }} is closed, and something has been in flight for two minutes: it is not paused"
          runbook: docs/operations.md#tidegatestuckpausing
      - alert: TidegateStoreStale
        expr: max by (namespace, pod, switch) (tidegate_switch_stale) == 1
        for: 1m
        labels: { severity: critical }
        annotations:
          summary: "{{ "{{ $labels.switch }}" }} has had no good reading for longer than max_stale: a flip would not be seen"
          runbook: docs/operations.md#tidegatestorestale
      - alert: TidegateFlipSlow
        expr: >-
          histogram_quantile(0.99, sum by (namespace, stream, le)
          (rate(tidegate_store_flip_latency_seconds_bucket{to="paused"}[1h]))) > {{ int .flipSeconds }}
        for: 5m
        labels: { severity: warning }
        annotations:
          summary: "{{ "{{ $labels.stream }}" }} needed more than {{ int .flipSeconds }} s from a write to the store until it was proven paused"
          runbook: docs/operations.md#tidegateflipslow
      - alert: TidegateLeaseRunningOut
        expr: min by (namespace, pod, stream) (tidegate_lease_left_seconds) < 10
        for: 30s
        labels: { severity: warning }
        annotations:
          summary: "the broker takes back what {{ "{{ $labels.stream }}" }} holds in less than 10 s"
          runbook: docs/operations.md#tidegateleaserunningout
      - alert: TidegateHoldWouldBeForgotten
        expr: max by (namespace, stream) (tidegate_holds{controller="api"}) > 0
        for: 15m
        labels: { severity: info }
        annotations:
          summary: "{{ "{{ $labels.stream }}" }} is held by the control API: a new pod would not know of it"
          runbook: docs/operations.md#tidegateholdwouldbeforgotten
      - alert: TidegateStreamFailed
        expr: max by (namespace, pod, stream) (tidegate_stream_state{state="failed"}) == 1
        labels: { severity: critical }
        annotations:
          summary: "{{ "{{ $labels.stream }}" }} has stopped, and a person has to act"
          runbook: docs/operations.md#tidegatestreamfailed
      - alert: TidegateAlarm
        expr: max by (namespace, pod) (tidegate_alarms) > 0
        for: 1m
        labels: { severity: warning }
        annotations:
          summary: "tidegate in {{ "{{ $labels.pod }}" }} says that something is wrong with it: see alarms in its status"
          runbook: docs/operations.md#tidegatealarm
{{- end }}
