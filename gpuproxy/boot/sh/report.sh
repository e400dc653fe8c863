# shellcheck shell=sh
# shellcheck disable=SC2154
# The line that the server reads. On stdout and, because nobody may read that, in the log of the container; a process of
# its own writes there, as it may have to wait. We set no variable after it, so the shell may export them again.
echo "$gp_line"
(echo "$gp_line" >>"${GPUPROXY_BOOT_CONSOLE:-/proc/1/fd/1}" &) </dev/null >/dev/null 2>&1
$gp_a
