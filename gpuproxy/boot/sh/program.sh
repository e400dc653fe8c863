# shellcheck shell=sh
# shellcheck disable=SC2034
# Our program on the machine: it runs the parts. The first argument is the directory of our files. A part is a function
# part_NAME. A one-shot part prints one word on stdout; what it prints on stderr is in our log.
gpuproxy_dir=$1
gpuproxy_report=

once() {
  word=$("part_$1") || word=failed
  echo "$(date) $1: $word" >&2
  gpuproxy_report=$gpuproxy_report${gpuproxy_report:+ }$1=$word
}

# All one-shot parts have ended. The script that waits sees the whole file or none.
settled() {
  echo "$gpuproxy_report" >"$gpuproxy_dir/state.new" && mv -f "$gpuproxy_dir/state.new" "$gpuproxy_dir/state"
}
