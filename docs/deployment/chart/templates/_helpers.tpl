{{- define "udig.name" -}}
{{- printf "%s" .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "udig.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "udig.name" .) }}
{{- else }}{{ .Values.serviceAccount.name | default "default" }}{{ end -}}
{{- end }}

{{- define "udig.selector" -}}
app.kubernetes.io/name: udig-recon
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "udig.labels" -}}
{{ include "udig.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* (root, image): reference of an image */}}
{{- define "udig.image" -}}
{{- $root := index . 0 -}}{{- $image := index . 1 -}}
{{- with $root.Values.images.registry }}{{ . }}/{{ end -}}
{{- $image.repository -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default $root.Chart.AppVersion }}{{ end -}}
{{- end }}

{{/* What is the same in every pod. */}}
{{- define "udig.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {{ toJson .Values.seccompProfile }}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "udig.container" -}}
imagePullPolicy: {{ .Values.images.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/* (root, keys of the Secret): settings of files and of the values */}}
{{- define "udig.env" -}}
{{- $root := index . 0 -}}
{{- range index . 1 }}
- {name: {{ upper . }}_FILE, value: /run/secrets/{{ . }}}
{{- end }}
- {name: DATA, value: /data}
{{- if $root.Values.storage.dataStore }}
- {name: DATA_STORE, value: {{ $root.Values.storage.dataStore | quote }}}
{{- else }}
- {name: PROJECTORS, value: /scratch/projectors}
{{- end }}
{{- if $root.Values.storage.priorsClaim }}
- {name: PRIORS, value: /priors}
{{- end }}
{{- range $name, $value := $root.Values.settings }}
- {name: {{ $name }}, value: {{ (kindIs "float64" $value) | ternary ($value | toJson) ($value | toString) | quote }}}
{{- end }}
{{- end }}

{{- define "udig.envFrom" -}}
{{- with .Values.storage.credentialsSecret }}
envFrom:
  - secretRef: {name: {{ . }}}
{{- end }}
{{- end }}

{{- define "udig.mounts" -}}
- {name: secrets, mountPath: /run/secrets, readOnly: true}
- {name: tmp, mountPath: /tmp}
- {name: data, mountPath: /data}
{{- if .Values.storage.existingClaim }}
- {name: scratch, mountPath: /scratch}
{{- end }}
{{- if .Values.storage.priorsClaim }}
- {name: priors, mountPath: /priors, readOnly: true}
{{- end }}
{{- end }}

{{/* (root, keys of the Secret, size of scratch) */}}
{{- define "udig.volumes" -}}
{{- $root := index . 0 -}}
- name: secrets
  secret:
    secretName: {{ $root.Values.existingSecret }}
    defaultMode: 0440
    items:
      {{- range index . 1 }}
      - {key: {{ . }}, path: {{ . }}}
      {{- end }}
- name: tmp
  emptyDir: {sizeLimit: 2Gi}
{{- if $root.Values.storage.existingClaim }}
- name: data
  persistentVolumeClaim: {claimName: {{ $root.Values.storage.existingClaim }}}
- name: scratch
  emptyDir: {sizeLimit: {{ index . 2 }}}
{{- else }}
- name: data
  emptyDir: {sizeLimit: {{ index . 2 }}}
{{- end }}
{{- with $root.Values.storage.priorsClaim }}
- name: priors
  persistentVolumeClaim: {claimName: {{ . }}, readOnly: true}
{{- end }}
{{- end }}

{{/* JSON of a pool: its own values over those of every pool */}}
{{- define "udig.pool" -}}
{{- $root := index . 0 -}}
{{- mustMergeOverwrite (deepCopy $root.Values.worker) (index . 1 | default dict) | toJson -}}
{{- end }}

{{- define "udig.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with .tolerations }}
tolerations: {{ toJson . }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{/* JSON of a worker's resources, with its GPU */}}
{{- define "udig.resources" -}}
{{- $resources := deepCopy .resources -}}
{{- if eq .device "cuda" -}}
{{- $gpu := dict .gpu.resource (.gpu.count | int) -}}
{{- $_ := set $resources "limits" (merge $gpu ($resources.limits | default dict)) -}}
{{- end -}}
{{- toJson $resources -}}
{{- end }}

{{- define "udig.dns" -}}
- ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
{{- end }}

{{- define "udig.reach" -}}
- ports: [{port: {{ .port }}, protocol: TCP}]
  to:
    {{- range .cidrs }}
    - ipBlock: {cidr: {{ . }}}
    {{- end }}
{{- end }}

{{- define "udig.inside" -}}
{{ include "udig.dns" . }}
{{ include "udig.reach" .Values.networkPolicy.postgres }}
{{ include "udig.reach" .Values.networkPolicy.redis }}
{{- if .Values.storage.dataStore }}
{{ include "udig.reach" .Values.networkPolicy.bucket }}
{{- end }}
{{- end }}
