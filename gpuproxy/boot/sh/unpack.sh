#!/bin/sh
# gpuproxy-boot 1, packed
# A script that is too long for the marketplace, as gzip in base64. This shell itself reads it then, so that it is in no
# argument of a process, where other processes could read it. What can't unpack it prints nothing, and the next one tries.
gpuproxy_text=PACKED
gpuproxy_text=$(
  PATH=${PATH:+$PATH:}/usr/local/bin:/usr/bin:/bin
  put() { printf %s "$gpuproxy_text"; }
  {
    put | base64 -d | gzip -d ||
      put | openssl base64 -d -A | gzip -d ||
      put | python3 -c 'import gzip,base64;open(1,"wb").write(gzip.decompress(base64.b64decode(input())))'
  } 2>/dev/null
)
[ "$gpuproxy_text" ] || {
  set -- 'gpuproxy-boot: version=1 keys=failed onstart=failed (unpacking needs gzip with base64 or openssl, or python3)'
  echo "$1"
  (echo "$1" >>"${GPUPROXY_BOOT_CONSOLE:-/proc/1/fd/1}" &) </dev/null >/dev/null 2>&1
  exit 127
}
eval "$gpuproxy_text"
