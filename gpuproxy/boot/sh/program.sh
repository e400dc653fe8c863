# shellcheck shell=sh
# Our program on the machine: it runs the parts in the directory of our files. A part is a function part_NAME. A one-shot
# part prints one word on stdout; what it prints on stderr is in our log.
report=

once() {
  word=$("part_$1") || word=failed
  echo "$(date) $1: $word" >&2
  report="$report $1=$word"
}

# All one-shot parts have ended. The script that waits sees the whole file or none.
settled() {
  echo "$report" >state.new && mv -f state.new state
}
