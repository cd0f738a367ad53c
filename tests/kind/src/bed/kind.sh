#!/bin/bash
# kind, on a bed: a cluster comes onto a network of its own, as if on a laptop of its own, and its nodes are of the bed's image.
set -euo pipefail
itself=$(dirname "$0")/kind-itself
[ "${1-} ${2-}" = "create cluster" ] || exec "$itself" "$@"

name='' config='' image=''
words=("$@")
for ((at = 2; at < ${#words[@]}; at++)); do
  case ${words[at]} in
    --name) name=${words[at + 1]} ;;
    --name=*) name=${words[at]#*=} ;;
    --config) config=${words[at + 1]} ;;
    --config=*) config=${words[at]#*=} ;;
    --image | --image=*) image=given ;;
  esac
done
[ -n "$name" ] || [ -z "$config" ] || name=$(sed -n 's/^name: *//p' "$config")
name=${name:-kind}

# Not longer than a device's name may be.
docker network inspect "$name" > /dev/null 2>&1 ||
  docker network create --opt "com.docker.network.bridge.name=laptop-${name:0:8}" "$name" > /dev/null
export KIND_EXPERIMENTAL_DOCKER_NETWORK=$name
[ -n "$image" ] || set -- "$@" --image "$NODE_IMAGE"
# It says so itself, each time.
exec "$itself" "$@" 2> >(grep -v KIND_EXPERIMENTAL >&2)
