# shellcheck shell=sh
# shellcheck disable=SC2154
[ "$gp_onstart" != not_run ] || exit 1
