#!/bin/bash
# Docker, on a bed: staging's nodes have addresses that stay, as those of a cluster that others rely on do. A laptop's may change.
set -euo pipefail
# Debian's, which is the daemon's own.
itself=/usr/bin/docker
[ "${1-}" = run ] || exec "$itself" "$@"

name=''
words=("$@")
for ((at = 1; at < ${#words[@]}; at++)); do
  case ${words[at]} in
    --name) name=${words[at + 1]} ;;
    --name=*) name=${words[at]#*=} ;;
  esac
done
case $name in
  staging-control-plane) set -- run --ip 198.51.100.2 "${@:2}" ;;
  staging-worker) set -- run --ip 198.51.100.3 "${@:2}" ;;
  staging-worker[2-9]) set -- run --ip "198.51.100.$((${name#staging-worker} + 2))" "${@:2}" ;;
esac
exec "$itself" "$@"
