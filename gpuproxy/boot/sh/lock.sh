# shellcheck shell=sh
# The lock of the volume: gp_lock PATH NONCE SECONDS [founds] sets gp_word. The lock belongs to the open file 9 of this
# shell. The user's script inherits that, and so does a process in a session of its own, which keeps the lock if the
# user's script closes the file.
gp_lock() {
  gp_word=wrong_volume
  if gp_do gp_volume "$@" 2>/dev/null; then
    exec 9>>"${GPUPROXY_BOOT_VOLUME:-$1}/.gpuproxy/lock"
    gp_word=$(gp_do gp_take "$3") || gp_word=lock_held
  fi
  [ "$gp_word" != held ] || gp_do gp_hold
}

# Succeeds if the volume is mounted and is the one with the nonce. A volume without anything on it may get the nonce.
gp_volume() {
  cd "${GPUPROXY_BOOT_VOLUME:-$1}" || return
  if [ "${GPUPROXY_BOOT_VOLUME-}" ]; then
    [ ! "${GPUPROXY_BOOT_UNMOUNTED-}" ]
  else
    device=$(gp_device .) && [ "$device" ] && [ "$device" != "$(gp_device /)" ]
  fi || return
  if [ "${4-}" ] && [ ! -e .gpuproxy ]; then
    for name in $(ls -A || echo failed); do
      # A start that was interrupted here left .gpuproxy.new.
      case $name in lost+found | .gpuproxy.new) ;; *) return 1 ;; esac
    done
    mkdir -p .gpuproxy.new && echo "$2" >.gpuproxy.new/pool && mv .gpuproxy.new .gpuproxy || return
  fi
  [ "$(cat .gpuproxy/pool)" = "$2" ] && : >>.gpuproxy/lock
}

gp_device() {
  stat -Lc %d "$1" || df -P "$1" | { read -r _ && read -r name _ && echo "$name"; }
}

# Prints the word. flock has no option for a wait in busybox.
gp_take() {
  left=$1
  if command -v flock; then
    set -- flock -n 9
  elif command -v python3; then
    set -- python3 -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)'
  else
    set --
  fi >/dev/null
  [ $# -gt 0 ] || { echo unsupported && return; }
  until "$@"; do
    [ "$left" -gt 0 ] && sleep 1 || return
    left=$((left - 1))
  done 2>/dev/null
  echo held
}

gp_hold() {
  if command -v setsid >/dev/null; then set -- setsid; else trap '' HUP; fi
  ("$@" sleep 999999999 </dev/null >/dev/null 2>&1 &)
}
