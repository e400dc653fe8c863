#!/bin/sh
# gpuproxy-boot 1
# shellcheck disable=SC2034
# Where our files go, and how they are written. A name without gp_ could be a variable of the user's environment, which
# must reach their script unchanged. So nothing of ours is exported, even if the shell exports everything (allexport).
case $- in *a*) set +a && gp_a='set -a' ;; *) gp_a= ;; esac
gp_dir=${GPUPROXY_BOOT_DIR:-${HOME:-/root}/.gpuproxy}

# Runs a command or function with what we need and the user's script must not inherit.
gp_do() (
  PATH=${PATH:+$PATH:}/usr/bin:/bin
  umask 077
  "$@"
)

gp_make() {
  mkdir -p "$gp_dir" && cd "$gp_dir" && chmod 700 . && : >>log && rm -f state
}
gp_do gp_make 2>/dev/null || gp_dir=$(gp_do mktemp -d /tmp/gpuproxy.XXXXXX)

# Writes stdin to a file. A script that still runs may read the old file, so that one is replaced and not changed.
gp_put() {
  cd "${gp_dir:?}" && cat >new && chmod 700 new && mv -f new "$1"
}
