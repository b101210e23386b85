// Package chart holds tests of the Helm chart (manifests/chart), by Helm's own library (tools/helm).
package chart
