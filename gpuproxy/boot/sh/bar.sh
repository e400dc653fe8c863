# shellcheck shell=sh
# shellcheck disable=SC2034,SC2154
# Without the lock the user's script is not run, unless there is nothing here that can lock.
case $gp_word in held | unsupported) ;; *) gp_onstart=not_run ;; esac
