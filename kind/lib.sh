# What up, walk and down have in common; sourced by them.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# Where they keep what they write: the developer's own files.
work=${DAISY_KIND_WORK:-target/kind}
mkdir -p "$work"
# Daisy's image: an archive, where no registry has it.
archive=${DAISY_IMAGE_ARCHIVE:-$(ls -t target/image/daisy-*.tar 2> /dev/null | head -1 || true)}
PATH=$PATH:$PWD/target/image
# The oldest kind whose clusters these configurations are for.
kind_least=0.27

fail() {
  echo "$(basename "$0"): $*" >&2
  exit 1
}

# Shows a command, and runs it.
run() {
  echo "\$ $*"
  "$@"
}

# Whether a version is another one or a newer one: 1.10 is newer than 1.9.
newer() {
  [ "$(printf '%s\n%s\n' "$1" "$2" | sort --version-sort | tail -1)" = "$1" ]
}

# Says what is missing, and what to do, before anything is begun.
check() {
  command -v docker > /dev/null || fail "docker is not in PATH: install Docker (https://docs.docker.com/get-docker)"
  docker version > /dev/null 2>&1 ||
    fail "Docker does not answer at ${DOCKER_HOST:-its usual address}: $(docker version 2>&1 | tail -1); start it (systemctl start docker, or Docker Desktop)"
  command -v kind > /dev/null ||
    fail "kind is not in PATH: install kind $kind_least or newer (https://kind.sigs.k8s.io), or use \`cargo xtask kind up\`, which builds it"
  local version
  version=$(kind version | sed -nE 's/^kind v?([0-9.]+).*/\1/p')
  [ -n "$version" ] && newer "$version" "$kind_least" ||
    fail "kind is ${version:-of an unknown version}, and these clusters want $kind_least or newer: upgrade it (https://kind.sigs.k8s.io)"
  command -v kubectl > /dev/null || fail "kubectl is not in PATH: install it (https://kubernetes.io/docs/tasks/tools)"
  command -v daisy > /dev/null || fail "daisy is not in PATH: build it with \`cargo xtask image\`, and it is in target/image"
}

# A cluster, by its name and configuration, with all its nodes ready; of the image that is named, if one is.
create() {
  run kind create cluster --config "$2" ${NODE_IMAGE:+--image "$NODE_IMAGE"}
  run kubectl --context "kind-$1" wait --for=condition=Ready --timeout=2m nodes --all
}

# Daisy's image onto the nodes of a cluster.
load() {
  if [ -n "$archive" ]; then
    run kind load image-archive "$archive" --name "$1"
  else
    echo "there is no archive of Daisy's image (cargo xtask image makes one): the nodes are to pull it"
  fi
}

# What a pod of local prints.
client() {
  kubectl --context kind-local exec client -- "$@"
}

# Waits, a minute at most, until a pod of local finds a name under another: eight times in a row, since each of several CoreDNS pods looks
# at its configuration in its own time.
found_as() {
  local found
  for _ in $(seq 60); do
    found=$(client sh -c "for i in \$(seq 8); do getent hosts $1 || exit; done" 2> /dev/null | grep --count "$2" || true)
    if [ "$found" = 8 ]; then
      client getent hosts "$1"
      return
    fi
    sleep 1
  done
  fail "after a minute local finds $1 as: $(client getent hosts "$1" || echo nothing); expected $2"
}
