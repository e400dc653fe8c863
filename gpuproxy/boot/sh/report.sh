# shellcheck shell=sh
# shellcheck disable=SC2154
# The line that the server reads. On stdout and, because nobody may read that, in the log of the container; a process of
# its own writes there, as it may have to wait.
gpuproxy_report() {
  echo "gpuproxy-boot: version=1 $1"
  (echo "gpuproxy-boot: version=1 $1" >>"${GPUPROXY_BOOT_CONSOLE:-/proc/1/fd/1}" &) </dev/null >/dev/null 2>&1
}
