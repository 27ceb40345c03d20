{{- define "dpo.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "dpo.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- $name := include "dpo.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "dpo.selector" -}}
app.kubernetes.io/name: {{ include "dpo.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "dpo.labels" -}}
{{ include "dpo.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "dpo.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "dpo.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.create is false: set serviceAccount.name to the account that the operator runs as" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "dpo.image" -}}
{{- $repository := required "Set image.repository: no image is published yet. Build one with the Dockerfile and push it to a registry that your nodes can reach" .Values.image.repository -}}
{{- $registry := default .Values.image.registry (dig "imageRegistry" "" (default (dict) .Values.global)) -}}
{{- with $registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- if .Values.image.digest -}}
{{ $repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ $repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end }}

{{- /* Fails unless the namespaces that the operator serves were chosen. It writes nothing. */ -}}
{{- define "dpo.requireScope" -}}
{{- if and .Values.allNamespaces .Values.watchNamespaces -}}
{{- fail "allNamespaces is true, but watchNamespaces lists namespaces: set only one of them" -}}
{{- else if not (or .Values.allNamespaces .Values.watchNamespaces) -}}
{{- fail "Set watchNamespaces to the namespaces that the operator serves, or set allNamespaces to true: the operator can then read every Secret in the cluster" -}}
{{- end -}}
{{- end }}

{{- /* Not empty if there is more than one replica, so that leader election is on. */ -}}
{{- define "dpo.election" -}}
{{- if gt (int .Values.replicaCount) 1 }}true{{ end -}}
{{- end }}

{{- /* The version of the API of MutatingAdmissionPolicy, or nothing if the policy is not installed. */ -}}
{{- define "dpo.admissionVersion" -}}
{{- $version := .Capabilities.KubeVersion.Version -}}
{{- $enabled := toString .Values.admission.enabled -}}
{{- if ne $enabled "false" -}}
{{- if semverCompare ">=1.36.0-0" $version -}}
v1
{{- else if eq $enabled "true" -}}
v1beta1
{{- end -}}
{{- end -}}
{{- end }}

{{- /* Not empty if the operator authorizes the clients of /metrics. */ -}}
{{- define "dpo.metricsAuthorization" -}}
{{- if .Values.metrics.authorization }}
{{- if not .Values.metrics.tls.enabled }}
{{- fail "metrics.authorization is true: set metrics.tls.enabled to true, because clients would send their tokens in clear text" }}
{{- end -}}
true
{{- end -}}
{{- end }}

{{- /* Environment of the operator and of the detach Job: the servers that they may reach. */ -}}
{{- define "dpo.upstreamEnv" -}}
- name: ALLOWED_DOPPLER_HOST
  value: {{ join "," .Values.operator.allowedDopplerHosts | quote }}
- name: ALLOWED_PREFECT_HOST
  value: {{ join "," .Values.operator.allowedPrefectHosts | quote }}
- name: ALLOWED_PREFECT_SERVICE
  value: {{ join "," .Values.operator.allowedPrefectServices | quote }}
- name: BLOCK_OVERRIDES
  value: {{ .Values.operator.blockOverrides | quote }}
- name: PREFECT_TIMEOUT
  value: {{ .Values.operator.prefectTimeout | quote }}
- name: DOPPLER_TIMEOUT
  value: {{ .Values.operator.dopplerTimeout | quote }}
{{- with .Values.watchNamespaces }}
- name: WATCH_NAMESPACE
  value: {{ join "," . | quote }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Settings that the pods of the operator and of the Jobs have in common. */ -}}
{{- define "dpo.podSettings" -}}
serviceAccountName: {{ include "dpo.serviceAccountName" . }}
# The environment variables of Services would only cost time at the start.
enableServiceLinks: false
{{- with .Values.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .Values.dnsPolicy }}
dnsPolicy: {{ . }}
{{- end }}
{{- with .Values.dnsConfig }}
dnsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.hostAliases }}
hostAliases:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with concat (default (list) (dig "imagePullSecrets" (list) (default (dict) .Values.global))) (default (list) .Values.imagePullSecrets) | uniq }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* Permissions of the operator in each namespace that it watches. */ -}}
{{- define "dpo.rules" -}}
- apiGroups: [doppler-prefect.dev]
  resources: [dopplerprefectbindings]
  verbs: [get, list, watch, patch] # patch: finalizer and annotation
- apiGroups: [doppler-prefect.dev]
  resources: [dopplerprefectbindings/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get] # to see that a namespace is being deleted
- apiGroups: [""]
  resources: [services]
  verbs: [get] # to refuse a Prefect server of type ExternalName
{{- with .Values.identities.serviceAccounts }}
- apiGroups: [""]
  resources: [serviceaccounts/token]
  resourceNames: {{ toJson . }}
  verbs: [create] # to prove the Doppler identities of bindings
{{- end }}
{{- if .Values.runPods.watch }}
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch] # to report pods of flow runs that do not start
{{- end }}
{{- if .Values.rbac.restarts }}
- apiGroups: [apps]
  resources: [deployments, statefulsets, daemonsets]
  verbs: [get, list, patch] # to restart workloads after a change of their Secret
- apiGroups: [argoproj.io]
  resources: [rollouts]
  verbs: [get, list, patch]
{{- end }}
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{ include "dpo.prefectRules" . }}
{{- end }}

{{- /*
The rule for the Services of allowedPrefectServices that are outside the watched namespaces, or nothing. Their namespaces may not exist yet, so the rule
belongs to a ClusterRole.
*/ -}}
{{- define "dpo.serviceRule" -}}
{{- $watched := .Values.watchNamespaces }}
{{- $names := list }}
{{- $any := false }}
{{- range .Values.operator.allowedPrefectServices }}
{{- $parts := splitList "/" . }}
{{- if not (or (eq (first $parts) ".") (has (first $parts) $watched)) }}
{{- if regexMatch "[*?]" (last $parts) }}
{{- $any = true }}
{{- else }}
{{- $names = append $names (last $parts) }}
{{- end }}
{{- end }}
{{- end }}
{{- if or $any $names }}
- apiGroups: [""]
  resources: [services]
  {{- if not $any }}
  resourceNames: {{ toJson (uniq $names) }}
  {{- end }}
  verbs: [get]
{{- end }}
{{- end }}

{{- define "dpo.prefectRules" -}}
- apiGroups: [prefect.io]
  resources: [prefectworkpools]
  verbs: [get, list, watch]
{{- end }}

{{- /*
The listed namespaces that are being deleted or do not exist, as a JSON array. An upgrade leaves their Roles out, because the API server would refuse
them. An installation, and a tool that renders without a cluster, such as Argo CD, find none.
*/ -}}
{{- define "dpo.lostNamespaces" -}}
{{- $lost := list -}}
{{- if and .Release.IsUpgrade (lookup "v1" "Namespace" "" .Release.Namespace) -}}
{{- range concat (default (list) .Values.watchNamespaces) (default (list) .Values.prefectNamespaces) | uniq -}}
{{- $namespace := lookup "v1" "Namespace" "" . -}}
{{- if or (not $namespace) (dig "metadata" "deletionTimestamp" "" $namespace) -}}
{{- $lost = append $lost . -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $lost -}}
{{- end }}
