# shellcheck shell=sh
# shellcheck disable=SC2154
# We set no variable after it, so the shell may export them again.
gp_say
$gp_a
