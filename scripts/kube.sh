#!/usr/bin/env bash
# Usage: scripts/kube.sh [--print]
# Builds the Kubernetes programs that the cluster tests run (test/kube) and prints the folder where they are: a folder of the user's
# cache that is named for their source, so that it does nothing when they are there. Cold it takes 5 to 10 minutes of two cores, 3 GB
# of memory and of the go build cache. Several may be started at once: one builds, the others wait for it.
# --print only prints the folder.
set -euo pipefail
cd "$(dirname "$0")/../test/kube"

case "${1:-}" in
  '' | --print) ;;
  *) sed -n 2,6p "../../scripts/kube.sh" >&2; exit 2 ;;
esac

cache="${XDG_CACHE_HOME:-$HOME/.cache}/pintle"
hash=$(cat ../../scripts/kube.sh go.mod go.sum ./*.go pause/*.go | sha256sum | cut -c1-12)
out=$cache/testkube-$hash
if [ "${1:-}" = --print ] || [ -x "$out/testkube" ]; then
  echo "$out"
  exit 0
fi

mkdir -p "$cache"
exec {lock}>"$cache/testkube.lock"
flock "$lock"
if [ ! -x "$out/testkube" ]; then
  find "$cache" -maxdepth 1 -name 'building-*' -exec rm -rf {} + # of a build that was killed; the lock says that none is running
  new=$(mktemp -d "$cache/building-XXXXXX")
  trap 'rm -rf "$new"' EXIT

  find "$cache" -maxdepth 1 -name 'testkube-*' -type d -mtime +30 -exec rm -rf {} +

  # kubeadm compares versions, and the programs have none but what the linker gives them.
  v=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
  IFS=. read -r major minor _ <<<"${v#v}"
  flags='-s -w'
  for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    flags+=" -X $package.gitVersion=$v -X $package.gitMajor=$major -X $package.gitMinor=$minor -X $package.gitTreeState=clean"
  done
  # {lock}>&-: what go leaves running would keep the lock.
  CGO_ENABLED=0 nice -n 19 go build -p 2 -buildvcs=false -ldflags "$flags" -o "$new/" . ./pause {lock}>&- >&2
  mv "$new/kube" "$new/testkube"
  for command in etcd etcdctl etcdutl kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl kubeadm; do
    ln -s testkube "$new/$command"
  done
  chmod 755 "$new"
  mv -T "$new" "$out"
fi
echo "$out"
