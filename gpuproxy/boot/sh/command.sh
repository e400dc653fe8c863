# shellcheck shell=sh
# shellcheck disable=SC2154
# Finds what runs the user's script: the interpreter of its shebang with one argument, else bash, else sh.
gpuproxy_shell=
gpuproxy_arg=
read -r gpuproxy_shell gpuproxy_arg <"$gpuproxy_dir/onstart" || :
if [ "$gpuproxy_shell" = '#!' ]; then
  read -r gpuproxy_onstart gpuproxy_shell gpuproxy_arg <"$gpuproxy_dir/onstart" || :
  gpuproxy_shell=$gpuproxy_onstart$gpuproxy_shell
fi
gpuproxy_onstart=$(printf '\r')
gpuproxy_shell=${gpuproxy_shell%"$gpuproxy_onstart"}
gpuproxy_arg=${gpuproxy_arg%"$gpuproxy_onstart"}
case $gpuproxy_shell in
'#!'?*) gpuproxy_shell=${gpuproxy_shell#??} ;;
*)
  gpuproxy_shell=$(PATH=$gpuproxy_path && { command -v bash || command -v sh; })
  gpuproxy_arg=
  ;;
esac
if [ "${GPUPROXY_BOOT_ONSTART:-}" = skip ]; then
  gpuproxy_onstart=skipped
elif [ -f "$gpuproxy_dir/onstart" ] && command -v "$gpuproxy_shell" >/dev/null; then
  gpuproxy_onstart=started
else
  gpuproxy_onstart=failed
fi
