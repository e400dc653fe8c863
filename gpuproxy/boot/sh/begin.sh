#!/bin/sh
# gpuproxy-boot 1
# Where our files go, and how they are written. A name without gpuproxy_ could be a variable of the user's environment,
# which must reach their script unchanged. What needs a umask or PATH of its own runs in a subshell, for the same reason.
gpuproxy_path=${PATH:+$PATH:}/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
gpuproxy_dir=${GPUPROXY_BOOT_DIR:-${HOME:-/root}/.gpuproxy}

gpuproxy_make() (
  PATH=$gpuproxy_path
  umask 077
  mkdir -p "$1" && chmod 700 "$1" && : >>"$1/log" && rm -f "$1/state"
) 2>/dev/null

gpuproxy_make "$gpuproxy_dir" || {
  gpuproxy_dir=$(PATH=$gpuproxy_path && umask 077 && mktemp -d /tmp/gpuproxy.XXXXXX)
  gpuproxy_make "$gpuproxy_dir"
}

# Writes stdin to a file. A script that still runs may read the old file, so that one is replaced and not changed.
gpuproxy_put() (
  PATH=$gpuproxy_path
  umask 077
  cat >"$gpuproxy_dir/$1.new" && chmod 700 "$gpuproxy_dir/$1.new" && mv -f "$gpuproxy_dir/$1.new" "$gpuproxy_dir/$1"
)
