{{/* The labels of all objects, and of the pods. */}}
{{- define "pintle.labels" -}}
app.kubernetes.io/name: pintle
app.kubernetes.io/instance: services
{{- end }}

{{/* The configuration, as the nodes read it. */}}
{{- define "pintle.config" -}}
{{- $config := deepCopy .Values.config }}
{{- $services := merge (dict) ($config.services | default dict) (dict "namespace" .Release.Namespace) }}
{{- $config = merge (dict "apiVersion" "pintle.dev/v1" "instance" "services" "services" $services) (omit $config "services") }}
{{- toYaml $config }}
{{ end }}

{{/* The names of the files that a node reads, one a line: but for passwords. */}}
{{- define "pintle.files" -}}
{{- with .Values.config.kubernetes }}{{ with .kubeconfig }}{{ . }}{{ "\n" }}{{ end }}{{ end }}
{{- range .Values.config.health }}
{{- with .ca }}{{ . }}{{ "\n" }}{{ end }}
{{- with .cert }}{{ . }}{{ "\n" }}{{ end }}
{{- with .key }}{{ . }}{{ "\n" }}{{ end }}
{{- end }}
{{- end }}

{{/* The names of the files with passwords and keys of BGP, one a line. */}}
{{- define "pintle.secrets" -}}
{{- with .Values.config.bgp }}
{{- range .peers }}
{{- with .passwordFile }}{{ . }}{{ "\n" }}{{ end }}
{{- with .bfd }}{{ with .auth }}{{ with .keyFile }}{{ . }}{{ "\n" }}{{ end }}{{ end }}{{ end }}
{{- end }}
{{- end }}
{{- end }}

{{/* The directory of the passwords, where the Secret is mounted; nothing if there are none. */}}
{{- define "pintle.secretDir" -}}
{{- $dir := "" }}
{{- range include "pintle.secrets" . | splitList "\n" | compact }}
{{- if contains "{node}" . }}{{ if not (hasPrefix "/etc/pintle/" .) }}
{{- fail (printf "%s: is another one on each node: keep it in /etc/pintle, which pods see as a whole" .) }}
{{- end }}{{ end }}
{{- if and $dir (ne $dir (dir .)) }}
{{- fail (printf "%s: is not in %s, where other passwords are: keep all in one directory, that of a Secret" . $dir) }}
{{- end }}
{{- $dir = dir . }}
{{- end }}
{{- if $dir }}
{{- range include "pintle.files" . | splitList "\n" | compact }}
{{- if or (hasPrefix (print $dir "/") .) (and (hasPrefix "/etc/pintle/" .) (hasPrefix "/etc/pintle/" (print $dir "/"))) }}
{{- fail (printf "%s: is of the node, and %s of a Secret: keep the passwords out of /etc/pintle, as in /etc/pintle-bgp" . $dir) }}
{{- end }}
{{- end }}
{{- end }}
{{- $dir }}
{{- end }}

{{/* The files and directories of the node that a pod sees, as YAML: a list of path, type and writable. */}}
{{- define "pintle.volumes" -}}
{{- $etc := false }}
{{- $out := list }}
{{- range include "pintle.files" . | splitList "\n" | compact | uniq | sortAlpha }}
{{- if hasPrefix "/etc/pintle/" . }}
{{- $etc = true }}
{{- else if contains "{node}" . }}
{{- fail (printf "%s: is another one on each node: keep it in /etc/pintle, which pods see as a whole" .) }}
{{- else if not (hasPrefix "/var/run/secrets/kubernetes.io/serviceaccount/" .) }}
{{- $out = append $out (dict "path" . "type" "File" "writable" false) }}
{{- end }}
{{- end }}
{{- if $etc }}
{{- $out = prepend $out (dict "path" "/etc/pintle" "type" "Directory" "writable" false) }}
{{- end }}
{{- $server := .Values.config.server | default dict }}
{{- $out = append $out (dict "path" ($server.runDir | default "/run/pintle") "type" "DirectoryOrCreate" "writable" true) }}
{{- toYaml $out }}
{{- end }}

{{/* The name of a volume: its path, in the letters that Kubernetes takes. */}}
{{- define "pintle.volumeName" -}}
{{- $name := regexReplaceAll "[^a-z0-9]+" (lower .) "-" | trimAll "-" }}
{{- if gt (len $name) 63 }}
{{- $name = printf "%s-%s" (substr 0 46 $name) (sha256sum . | trunc 16) }}
{{- end }}
{{- $name }}
{{- end }}

{{/* The host and the port of an address to listen on, and the port if it has none: [::1]:1, ::1, 10.0.0.1:1 and so on. */}}
{{- define "pintle.host" -}}
{{- regexReplaceAll "^([^:]+):[0-9]+$" (regexReplaceAll "^\\[(.*)\\](:[0-9]+)?$" .listen "${1}") "${1}" }}
{{- end }}
{{- define "pintle.port" -}}
{{- if regexMatch "^(\\[.*\\]|[^:]+):[0-9]+$" .listen }}{{ regexFind "[0-9]+$" .listen }}{{ else }}{{ .port }}{{ end }}
{{- end }}
