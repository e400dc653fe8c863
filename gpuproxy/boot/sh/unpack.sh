#!/bin/sh
# gpuproxy-boot 1, packed
# A script that is too long for the marketplace, as gzip in base64. This shell itself reads it then, so that it is in no
# argument of a process, where other processes could read it. What can't unpack it prints nothing, and the next one tries.
# At the end stands what runs if none can. Nothing is kept in a variable, as a shell may export all of them.
eval "$(
  PATH=${PATH:+$PATH:}/usr/bin:/bin
  gp() { printf %s PACKED; }
  {
    gp | base64 -d | gzip -d ||
      gp | openssl base64 -d -A | gzip -d ||
      gp | python3 -c 'import gzip,base64;open(1,"wb").write(gzip.decompress(base64.b64decode(input())))'
  } 2>/dev/null || cat <<'end'
set -- "gpuproxy-boot: version=1 keys=failed onstart=failed (needs gzip and base64, or python3)"
echo "$1"
(echo "$1" >>"${GPUPROXY_BOOT_CONSOLE:-/proc/1/fd/1}" &) 2>/dev/null
exit 127
end
)"
