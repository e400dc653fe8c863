# shellcheck shell=sh
# shellcheck disable=SC2034,SC2154
# Finds what runs the user's script. The arguments are from its shebang: the program, its argument, and what that needs.
# If there is no shebang or a program is missing here, it is bash, else sh.
gp_find() {
  gp_shell=$1
  gp_arg=${2-}
  { [ "$1" ] && command -v "$1" && command -v "${3:-$1}"; } >/dev/null && return
  gp_arg=
  gp_shell=$(gp_do command -v bash || gp_do command -v sh)
  [ ! "$1" ] || echo "onstart: $1 ${3-} was not found, so $gp_shell runs it" >>"$gp_dir/log" || :
}
