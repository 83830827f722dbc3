{{/* The names of all objects begin with this. */}}
{{- define "paligemma.fullname" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-{{ .Chart.Name }}{{ end }}
{{- end }}

{{/* What selects the pods of a component: (list $ "triton"). */}}
{{- define "paligemma.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* All labels of an object of a component. */}}
{{- define "paligemma.labels" -}}
{{- $root := index . 0 -}}
{{ include "paligemma.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: {{ $root.Chart.Name }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ $root.Chart.Name }}-{{ $root.Chart.Version }}
{{- end }}

{{/* The image of a component. */}}
{{- define "paligemma.image" -}}
{{- $root := index . 0 -}}
{{- $images := $root.Values.images -}}
{{- $digest := get $images (printf "%sDigest" (index . 1)) -}}
{{ $images.account }}/paligemma-image-segmentation-{{ index . 1 }}
{{- if $digest }}@{{ $digest }}{{ else }}:{{ $images.tag | default $root.Chart.AppVersion }}{{ end }}
{{- end }}

{{/* Settings as variables, those of a component over the common ones. */}}
{{- define "paligemma.settings" -}}
{{- $root := index . 0 -}}
{{- range $name, $value := merge (dict) (get $root.Values (index . 1)).settings $root.Values.settings }}
- { name: {{ $name }}, value: {{ $value | quote }} }
{{- end }}
{{- end }}

{{- define "paligemma.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "paligemma.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{/* Where the pods of a component may run. */}}
{{- define "paligemma.placement" -}}
{{- $values := get (index . 0).Values (index . 1) -}}
nodeSelector: {{ toJson $values.nodeSelector }}
tolerations: {{ toJson $values.tolerations }}
affinity: {{ toJson $values.affinity }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{- define "paligemma.spread" -}}
{{- $values := get (index . 0).Values (index . 1) -}}
- maxSkew: 1
  topologyKey: {{ $values.topologyKey }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels: {{- include "paligemma.selector" . | nindent 6 }}
{{- end }}

{{/* Whether weights are downloaded before Triton starts: the demo model and a mounted folder have no owner in their name. */}}
{{- define "paligemma.downloads" -}}
{{- if and .Values.cache.download (contains "/" .Values.modelId) }}true{{ end }}
{{- end }}

{{/*
The container that lays out the models folder. The volume hides the image's folder, so the demo weights are linked
again. Weights that are complete are not downloaded a second time: processes that start together wait for each other.
*/}}
{{- define "paligemma.weights" -}}
name: weights
image: {{ include "paligemma.image" (list . "triton") }}
imagePullPolicy: {{ .Values.images.pullPolicy }}
command: [sh, -c]
args:
  - |
    for weights in /opt/demo/*; do
      [ -e "/app/models/${weights##*/}" ] || ln -sf "$weights" /app/models/
    done
{{- if include "paligemma.downloads" . }}
    exec python3 /app/scripts/download.py "$MODEL_ID" --vae
{{- end }}
env:
  - { name: MODEL_ID, value: {{ .Values.modelId | quote }} }
{{- include "paligemma.tokenVariable" . | nindent 2 }}
{{- include "paligemma.settings" (list . "triton") | nindent 2 }}
resources:
  requests: { cpu: 500m, memory: 1Gi }
  limits: { memory: 4Gi }
securityContext: {{- include "paligemma.containerSecurity" . | nindent 2 }}
volumeMounts:
  - { name: models, mountPath: /app/models }
  - { name: tmp, mountPath: /tmp }
  - { name: home, mountPath: /app/home }
{{- include "paligemma.tokenMount" . | nindent 2 }}
{{- end }}

{{/* The token of the hub: a file and its path, never a variable with the token itself. */}}
{{- define "paligemma.tokenVariable" -}}
{{- if .Values.hfToken.secretName }}
- { name: HF_TOKEN_PATH, value: /etc/paligemma/hf-token/token }
{{- end }}
{{- end }}

{{- define "paligemma.tokenMount" -}}
{{- if .Values.hfToken.secretName }}
- { name: hf-token, mountPath: /etc/paligemma/hf-token, readOnly: true }
{{- end }}
{{- end }}

{{/* The volumes of pods that read or write weights. */}}
{{- define "paligemma.modelVolumes" -}}
- name: models
{{- if eq .Values.cache.kind "pvc" }}
  persistentVolumeClaim: { claimName: {{ .Values.cache.existingClaim | default (printf "%s-models" (include "paligemma.fullname" .)) }} }
{{- else if eq .Values.cache.kind "hostPath" }}
  hostPath: { path: {{ .Values.cache.hostPath }}, type: Directory }
{{- else }}
  emptyDir: { sizeLimit: {{ .Values.cache.size }} }
{{- end }}
- name: tmp
  emptyDir: { sizeLimit: 2Gi }
- name: home
  emptyDir: { sizeLimit: 10Gi }
{{- if .Values.hfToken.secretName }}
- name: hf-token
  secret:
    secretName: {{ .Values.hfToken.secretName }}
    defaultMode: 0440
    items: [{ key: {{ .Values.hfToken.key }}, path: token }]
{{- end }}
{{- end }}

{{/* Every address but private, local and reserved ones: those that the gateway itself fetches from. */}}
{{- define "paligemma.publicNetworks" -}}
- ipBlock:
    cidr: 0.0.0.0/0
    except:
      - 0.0.0.0/8
      - 10.0.0.0/8
      - 100.64.0.0/10
      - 127.0.0.0/8
      - 168.63.129.16/32
      - 169.254.0.0/16
      - 172.16.0.0/12
      - 192.0.0.0/24
      - 192.0.2.0/24
      - 192.88.99.0/24
      - 192.168.0.0/16
      - 198.18.0.0/15
      - 198.51.100.0/24
      - 203.0.113.0/24
      - 224.0.0.0/4
      - 240.0.0.0/4
- ipBlock:
    cidr: 2000::/3
    except:
      - 2001::/23
      - 2001:db8::/32
      - 2002::/16
      - 3fff::/20
{{- end }}

{{/* Downloads: the name server, the public hub, and a mirror of it. */}}
{{- define "paligemma.hubEgress" -}}
{{- $port := .Values.networkPolicy.dnsPort -}}
- ports: [{ port: {{ $port }}, protocol: UDP }, { port: {{ $port }}, protocol: TCP }]
- to: {{- include "paligemma.publicNetworks" . | nindent 4 }}
  ports: [{ port: 443 }]
{{- range .Values.networkPolicy.hubNetworks }}
- to: [{ ipBlock: { cidr: {{ . | quote }} } }]
{{- end }}
{{- end }}

{{/* What a route publishes: everything that the gateway serves but its metrics. */}}
{{- define "paligemma.publicPaths" -}}
/segment /models /version /healthz /readyz /demo /docs /redoc /openapi.json /static /v1 /sam3 /label-studio
{{- end }}

{{/* How fast engine pods come and go: at once up, and slowly down, since a new one loads for minutes. */}}
{{- define "paligemma.tritonScaling" -}}
scaleUp:
  stabilizationWindowSeconds: 0
  policies: [{ type: Pods, value: 2, periodSeconds: 60 }]
scaleDown:
  stabilizationWindowSeconds: {{ .Values.triton.autoscaling.scaleDownWindowS }}
  policies: [{ type: Pods, value: 1, periodSeconds: 120 }]
{{- end }}
