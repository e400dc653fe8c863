# shellcheck shell=sh
# The part "keys": SSH keys that may log in. It runs at every start of the container and adds each key once.
part_keys() {
  ssh=${HOME:-/root}/.ssh
  file=$ssh/authorized_keys
  word=present
  mkdir -p "$ssh" && chmod 700 "$ssh" && touch "$file" && chmod 600 "$file" || return
  # A last line without its newline would swallow the first new key.
  [ -z "$(tail -c 1 "$file")" ] || echo >>"$file" || return
  while IFS= read -r key; do
    grep -qxF -e "$key" "$file" && continue
    printf '%s\n' "$key" >>"$file" || return
    word=added
  done <keys || return
  echo "$word"
}
