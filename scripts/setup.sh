#!/usr/bin/env bash
# Usage: scripts/setup.sh test|install|race|bench
# Installs the Debian packages that a make target needs beyond Go, only those that are missing, only as root. What only "test" needs may
# stay missing without LAB=require: tests are skipped then.
set -euo pipefail

# PROGRAM:PACKAGES, the packages separated by commas. Tests with kubelets need a container runtime and its network, those of BGP routers.
kubelets=(nsenter:util-linux nft:nftables containerd:containerd runc:runc host-local:containernetworking-plugins)
routers=(bgpd:frr bird:bird2)
case "${1:-}" in
  test) needs=("${kubelets[@]}" "${routers[@]}") ;;
  install) needs=("${kubelets[@]}") ;;
  race) needs=(gcc:gcc,libc6-dev) ;;
  bench) needs=(keepalived:keepalived "${routers[@]}") ;;
  *) sed -n 2,4p "$0" >&2; exit 2 ;;
esac

PATH="$PATH:/usr/sbin:/sbin:/usr/lib/cni:/usr/lib/frr" # where a user's PATH may not lead
if ! command -v go >/dev/null; then
  echo "setup: go is missing: install the version that go.mod names, from https://go.dev/dl" >&2
  exit 1
fi

missing=()
for need in ${needs[@]+"${needs[@]}"}; do
  command -v "${need%%:*}" >/dev/null || missing+=(${need#*:})
done
missing=(${missing[@]+"${missing[@]//,/ }"})
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "setup: missing: ${missing[*]}. Install with: apt-get install --no-install-recommends ${missing[*]}" >&2
  [ "$1" = test ] && [ "${LAB:-}" != require ] && exit 0
  exit 1
fi

# A service that a package brings (keepalived, frr, bird2) must not start on this machine: policy-rc.d says no, if nobody has yet.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' >$policy
  chmod +x $policy
  trap 'rm -f $policy' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
install=(apt-get install -qq -y --no-install-recommends ${missing[*]})
"${install[@]}" >/dev/null || { apt-get update -qq && "${install[@]}" >/dev/null; }
