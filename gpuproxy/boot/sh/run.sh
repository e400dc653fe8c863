# shellcheck shell=sh
# shellcheck disable=SC2154
# The user's script takes this process's place, so its exit status, its signals and its stdin are those of this script.
case $gpuproxy_onstart in
started) exec "$gpuproxy_shell" ${gpuproxy_arg:+"$gpuproxy_arg"} "$gpuproxy_dir/onstart" "$@" ;;
failed)
  echo "gpuproxy-boot: onstart was not run: '$gpuproxy_shell' was not found, or the script could not be written" >&2
  exit 127
  ;;
esac
