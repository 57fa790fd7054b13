{{- define "multimodal-embedding-ms.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The chart's own name, not the release's: it is the host name that clients have. */}}
{{- define "multimodal-embedding-ms.fullname" -}}
{{- .Values.fullnameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "multimodal-embedding-ms.selectorLabels" -}}
app.kubernetes.io/name: {{ include "multimodal-embedding-ms.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "multimodal-embedding-ms.labels" -}}
{{ include "multimodal-embedding-ms.selectorLabels" . }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "multimodal-embedding-ms.device" -}}
{{- .Values.global.devices.multimodalEmbedding.device | default .Values.embeddingDevice | default "CPU" }}
{{- end }}

{{/* GPU, NPU, or empty. */}}
{{- define "multimodal-embedding-ms.accelerator" -}}
{{- $device := include "multimodal-embedding-ms.device" . | upper -}}
{{- if contains "GPU" $device }}GPU{{ else if contains "NPU" $device }}NPU{{ end }}
{{- end }}

{{/* A volume's source: a claim, a folder of the node, or the pod's own. */}}
{{- define "multimodal-embedding-ms.volume" -}}
{{- if .claim }}
persistentVolumeClaim:
  claimName: {{ .claim }}
{{- else if .path }}
hostPath:
  path: {{ .path }}
  type: DirectoryOrCreate
{{- else }}
emptyDir: {}
{{- end }}
{{- end }}

{{- define "multimodal-embedding-ms.modelClaim" -}}
{{- if .Values.modelPvc.enabled }}
{{- if .Values.modelPvc.existingClaim }}
{{- .Values.modelPvc.existingClaim }}
{{- else if .Values.global.usePvc }}
{{- printf "%s-models-pvc" (include "multimodal-embedding-ms.fullname" .) }}
{{- end }}
{{- end }}
{{- end }}
