{{- define "driftdb.check" -}}
{{- if not (or .Values.insecure (and .Values.tls.secretName .Values.auth.secretName)) -}}
{{- fail "set tls.secretName and auth.secretName, or insecure=true if only you can reach the cluster's network" -}}
{{- end -}}
{{- end -}}

{{- define "driftdb.claim" -}}
{{- .Values.data.existingClaim | default (printf "%s-data" .Release.Name) -}}
{{- end -}}

{{- define "driftdb.image" -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}

{{- define "driftdb.labels" -}}
app.kubernetes.io/name: driftdb
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* What both daemons have in their environment. The port of the metrics has no TLS: a NetworkPolicy says who reaches it. */}}
{{- define "driftdb.env" -}}
- name: DRIFTDB_DATA
  value: /data
- name: DRIFTDB_METRICS_INSECURE_LISTEN
  value: "true"
{{- if .Values.insecure }}
- name: DRIFTDB_INSECURE_LISTEN
  value: "true"
{{- end }}
- name: DRIFTDB_LOG_FORMAT
  value: json
{{- if .Values.tls.secretName }}
- name: DRIFTDB_TLS_CERT
  value: /etc/driftdb/tls/tls.crt
- name: DRIFTDB_TLS_KEY
  value: /etc/driftdb/tls/tls.key
{{- if .Values.tls.clientCa }}
- name: DRIFTDB_TLS_CLIENT_CA
  value: /etc/driftdb/tls/ca.crt
{{- end }}
{{- end }}
{{- if .Values.auth.secretName }}
- name: DRIFTDB_AUTH_FILE
  value: /etc/driftdb/auth/auth.toml
{{- end }}
{{- end -}}

{{- define "driftdb.mounts" -}}
{{- if .Values.tls.secretName }}
- name: tls
  mountPath: /etc/driftdb/tls
  readOnly: true
{{- end }}
{{- if .Values.auth.secretName }}
- name: auth
  mountPath: /etc/driftdb/auth
  readOnly: true
{{- end }}
{{- end -}}

{{- define "driftdb.volumes" -}}
- name: data
  persistentVolumeClaim:
    claimName: {{ include "driftdb.claim" . }}
{{- if .Values.tls.secretName }}
- name: tls
  secret:
    secretName: {{ .Values.tls.secretName }}
{{- end }}
{{- if .Values.auth.secretName }}
- name: auth
  secret:
    secretName: {{ .Values.auth.secretName }}
{{- end }}
{{- end -}}

{{- define "driftdb.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "driftdb.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}
