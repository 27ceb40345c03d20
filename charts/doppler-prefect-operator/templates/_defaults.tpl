{{- /*
The defaults of values.yaml, for values that are missing at render time: set to null, or lost by `helm upgrade --reuse-values` from a release of an
older chart. A test renders the chart with each value set to null and compares the result with the defaults of values.yaml.
*/ -}}
{{- define "dpo.defaults" -}}
image:
  repository: ""
  pullPolicy: IfNotPresent
allNamespaces: false
crds:
  enabled: true
  keep: true
admission:
  enabled: auto
serviceAccount:
  create: true
rbac:
  create: true
  terminatingNamespaces: true
  restarts: false
  admission: true
  aggregateToView: true
  aggregateToEdit: false
runPods:
  watch: false
identities:
  serviceAccounts: []
clusterServers:
  enabled: false
  secrets: []
  configMaps: []
defaults:
  prefect:
    server: ""
operator:
  concurrency: 64
  refreshInterval: 60s
  pushedRefreshInterval: 10m
  maxStreams: 256
  runEvents: true
  prefectAccountBudget: 60
  staleAfter: 5m
  releaseWait: 90s
  releaseTimeout: 10m
  kubernetesTimeout: 20s
  prefectTimeout: 15s
  dopplerTimeout: 15s
  allowedDopplerHosts: [api.doppler.com]
  allowedPrefectHosts: [api.prefect.cloud]
  allowedPrefectServices: [./*, prefect/prefect-server]
  blockOverrides: allow
log:
  format: json
  filter: info
ports:
  metrics: 8080
  health: 8081
  webhook: 8082
metrics:
  tls:
    enabled: false
  authorization: false
  perBinding: false
webhook:
  enabled: false
  service:
    port: 80
  ingress:
    enabled: false
  httpRoute:
    enabled: false
uninstall:
  detach: true
  keepSecrets: false
  timeout: 2m
  activeDeadlineSeconds: 240
replicaCount: 1
podDisruptionBudget:
  enabled: false
  unhealthyPodEvictionPolicy: AlwaysAllow
resources:
  requests:
    cpu: 10m
    memory: 24Mi
  limits:
    memory: 128Mi
podSecurityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
terminationGracePeriodSeconds: 30
revisionHistoryLimit: 10
service:
  port: 8080
serviceMonitor:
  enabled: false
  interval: 30s
networkPolicy:
  enabled: false
  egress:
    enabled: false
    apiServerPorts: [443, 6443]
    dopplerPorts: [443]
    prefectPorts: [4200]
prometheusRule:
  enabled: false
dashboard:
  enabled: false
  labels:
    grafana_dashboard: "1"
{{- end }}

{{- /* Sets every missing value to its default. Each template calls it first, and it writes nothing. */ -}}
{{- define "dpo.setDefaults" -}}
{{- include "dpo.fill" (dict "values" .Values "defaults" (include "dpo.defaults" . | fromYaml)) -}}
{{- end }}

{{- /* Fills maps recursively, but not `resources` and the security contexts: there a null removes a default, as is usual with Helm. */ -}}
{{- define "dpo.fill" -}}
{{- $values := .values -}}
{{- range $key, $default := .defaults -}}
{{- $value := index $values $key -}}
{{- if kindIs "invalid" $value -}}
{{- $_ := set $values $key $default -}}
{{- else if and (kindIs "map" $default) (not (has $key (list "resources" "podSecurityContext" "securityContext"))) -}}
{{- include "dpo.fill" (dict "values" $value "defaults" $default) -}}
{{- end -}}
{{- end -}}
{{- end }}
