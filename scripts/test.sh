#!/usr/bin/env bash
# Usage: scripts/test.sh [FLAG...]
# Vets and tests everything, with more flags for go test. The programs of Kubernetes are built meanwhile (scripts/kube.sh), if they are
# not there and may be run, which only root may; what runs them is tested after everything else, two packages at a time.
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p build
build=true
[ "$(id -u)" -eq 0 ] && build=scripts/kube.sh
setsid "$build" >build/kube.log 2>&1 &
kube=$!
trap 'kill -- -$kube 2>/dev/null || true' EXIT

# What runs Kubernetes is in test/cluster or imports it.
others=() clusters=()
while read -r package imports; do
  case "$package $imports" in
    */test/cluster*) clusters=("$package" "${clusters[@]}") ;; # backwards, by which the longest come first
    *) others+=("$package") ;;
  esac
done < <(go list -f '{{.ImportPath}} {{.Imports}} {{.TestImports}} {{.XTestImports}}' ./...)

status=0
go vet ./... || status=1
go test -timeout 20m "$@" "${others[@]}" || status=1
wait $kube || { echo "test: scripts/kube.sh ended with an error:" >&2; cat build/kube.log >&2; status=1; }
trap - EXIT
go test -timeout 20m -p 2 "$@" "${clusters[@]}" || status=1
exit $status
