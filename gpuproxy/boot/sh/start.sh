# shellcheck shell=sh
# shellcheck disable=SC2154
# Starts our program, waits up to 10 s for its one-shot parts, and prints what they report; else the first argument.
# The program is in a session of its own and no child of the user's script. Without setsid it only ignores SIGHUP.
gpuproxy_start() (
  PATH=$gpuproxy_path
  failed=$1
  n=0
  shift
  if command -v setsid >/dev/null; then
    set -- setsid
  else
    trap '' HUP
  fi
  if [ -f "$gpuproxy_dir/program" ]; then
    (umask 077 && exec "$@" sh "$gpuproxy_dir/program" "$gpuproxy_dir" </dev/null >>"$gpuproxy_dir/log" 2>&1 &)
    until [ -f "$gpuproxy_dir/state" ] || [ "$n" -ge 200 ]; do
      sleep 0.05 2>/dev/null || { sleep 1 && n=$((n + 19)); }
      n=$((n + 1))
    done
  fi
  cat "$gpuproxy_dir/state" 2>/dev/null || echo "$failed"
)
