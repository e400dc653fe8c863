# shellcheck shell=sh
# shellcheck disable=SC2154
# Starts our program, waits up to 10 s for its one-shot parts, and prints what they report; fails if there is nothing.
# The program is in a session of its own and no child of the user's script. Without setsid it only ignores SIGHUP.
gp_start() {
  n=0
  cd "${gp_dir:?}" && [ -f program ] || return
  if command -v setsid >/dev/null; then set -- setsid; else trap '' HUP; fi
  ("$@" sh "$PWD/program" </dev/null >>log 2>&1 &)
  until [ -f state ] || [ "$n" -ge 200 ]; do
    sleep 0.05 || { sleep 1 && n=$((n + 19)); }
    n=$((n + 1))
  done 2>/dev/null
  cat state
}
