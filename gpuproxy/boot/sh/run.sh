# shellcheck shell=sh
# shellcheck disable=SC2154
# The user's script takes this process's place, so its exit status, its signals and its stdin are those of this script.
[ "$gp_onstart" ] || exec "$gp_shell" ${gp_arg:+"$gp_arg"} "$gp_dir/onstart" "$@"
[ "$gp_onstart" = skipped ] || {
  echo 'gpuproxy-boot: onstart could not be written' >&2
  exit 127
}
