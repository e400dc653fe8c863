# shellcheck shell=sh
# The part "ending": it ends this machine after the end in its label, also when the server is gone. part_ending reports
# whether it can, loop_ending does it. It trusts no clock of this machine and knows no end of its own: the label and the
# Date header of two reads decide. After anything else it does nothing and asks again.
part_ending() {
  able
  echo "$word"
}

# Finds all that speak HTTPS and check certificates (busybox's wget does not), this instance's id, and the key that can
# read, stop and destroy this instance only.
able() {
  word=no_https_client
  clients=
  for client in curl python3 wget; do
    case $($client --version) in curl* | Python* | GNU*) clients="$clients$client " && word=watching ;; esac
  done 2>/dev/null
  id=$(value CONTAINER_ID)
  key=$(value CONTAINER_API_KEY)
  case $id,$key in ,* | *, | *[!0-9]*,* | *,*[!0-9A-Za-z_-]*) word=no_key ;; esac
}

# A variable of this environment or, because ours may lack it, of the container's first process.
value() {
  { env && tr '\0' '\n' </proc/1/environ; } 2>/dev/null | sed -n "s/^$1=//p" | head -n 1
}

# ask METHOD [BODY] prints the answer with its headers. The key goes through stdin or a file, never an argument.
ask() {
  at=${GPUPROXY_BOOT_API:-https://console.vast.ai}/api/v0/instances/$id/
  case $clients in
    curl*)
      echo "header=\"Authorization: Bearer $key\"" |
        curl -qsim 30 -K - -X "$1" -H Content-Type:application/json ${2:+-d "$2"} "$at"
      ;;
    python3*)
      echo "$key" | python3 -c 'import sys,http.client as h
_,m,b,a=sys.argv
s,_,n,p=a.split("/",3)
c=getattr(h,s[:-1].upper()+"Connection")(n,timeout=30)
c.request(m,"/"+p,b,{"Authorization":"Bearer "+input(),"Content-Type":"application/json"})
r=c.getresponse()
print("HTTP",r.status,"\nDate:",r.getheader("Date"))
print(r.read().decode("ascii","ignore"))' "$1" "${2-}" "$at"
      ;;
    *)
      echo "check_certificate=on
header=Authorization: Bearer $key
header=Content-Type: application/json" >wgetrc
      wget --config=wgetrc -qSO- -T30 -t1 --max-redirect=0 --method="$1" ${2:+--body-data="$2"} "$at" 2>&1
      ;;
  esac
} 2>/dev/null

# look WORDS: the status, the date and the only label of ours in a read. Succeeds if it is 10 minutes after the end, and
# sets now, in seconds since 1970, label and verb.
look() {
  [ $# -ge 10 ] && shift $(($# - 10)) && [ "$1" = 200 ] || return
  label=$8
  verb=${10}
  m=JanFebMarAprMayJunJulAugSepOctNovDec
  m=${m%"$3"*}
  m=$((${#m} / 3 + 1))
  [ $m -lt 13 ] || return
  y=$4
  [ $m -gt 2 ] || m=$((m + 12)) y=$((y - 1))
  now=$((365 * y + y / 4 - y / 100 + y / 400 + (153 * m - 457) / 5 + ${2#0} - 719469))
  now=$((((now * 24 + ${5#0}) * 60 + ${6#0}) * 60 + ${7#0}))
  end=0
  left=$9
  while [ "$left" ]; do
    m=$(printf %d "'$left")
    [ "$m" -lt 97 ] || m=$((m - 39))
    end=$((end * 36 + m - 48))
    left=${left#?}
  done
  [ $now -gt $((end + 600)) ]
}

loop_ending() {
  able
  seen=
  [ $word = watching ] && while sleep "${GPUPROXY_BOOT_MINUTE:-60}"; do
    said=$(ask GET | tr -d '\r' | sed -n 's/^ *HTTP[^ ]* \([0-9]*\).*/\1/p
s/^ *[Dd]ate: ..., \([0-9][0-9]\) \([A-Z][a-z][a-z]\) \([0-9]\{4\}\) \([0-9][0-9]\):\([0-9][0-9]\):\([0-9][0-9]\) GMT$/\1 \2 \3 \4 \5 \6/p
/"label": *"gpx-[-0-9a-z]*\.e.*"label": *"gpx-[-0-9a-z]*\.e/!s/.*"label": *"\(gpx-[-0-9a-z]*\.e\([0-9a-z]\{1,7\}\)\.\([ds]\)\.[a-z2-7]\{8\}\)".*/\1 \2 \3/p')
    # Without any answer, such as for a lack of CA certificates, it is the next client's turn.
    [ "$said" ] || clients="${clients#* }${clients%% *} "
    # shellcheck disable=SC2086
    if look $said; then
      if [ "$label" != "$seen" ]; then
        seen=$label
        since=$now
      elif [ $((now - since)) -ge 60 ]; then
        echo "$(date) ending: $label" >&2
        if [ "$verb" = d ]; then ask DELETE '{}'; else ask PUT '{"state":"stopped"}'; fi
        seen=
      fi
    else
      seen=
      sleep "${GPUPROXY_BOOT_MINUTE:-60}"
    fi
  done
}
