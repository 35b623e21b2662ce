# shellcheck shell=bash
# Messages, waiting, processes and ports: helpers shared by all services.

say() { printf 'stack: %s\n' "$*" >&2; }

die() {
  say "error: $*"
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# Two concurrent calls would start everything twice. Started processes close the file descriptor (see `spawn`),
# otherwise the lock would be held as long as Kafka runs.
take_lock() {
  mkdir -p "$STATE"
  exec 9>"$STATE/lock"
  if ! flock --nonblock 9; then
    say "waiting for another docker/stack to finish"
    flock --timeout 900 9 || die "another docker/stack has held $STATE/lock for 15 minutes"
  fi
}

# ------------------------------------------------------------------------------------------------- processes

# A pid alone does not identify a process, because the kernel reuses it. Together with the boot id and the clock tick at
# which the process started it does, permanently.
started_at() {
  local stat
  { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 1
  # The command name is in parentheses and may contain spaces; field 3 (the state) follows the last parenthesis.
  stat=${stat##*) }
  local fields
  read -ra fields <<<"$stat"
  [[ ${fields[0]} != Z ]] || return 1
  printf '%s' "${fields[19]}"
}

boot_id() { cat /proc/sys/kernel/random/boot_id; }

# spawn SERVICE COMMAND...: starts it in its own session, so that it survives the terminal that ran `make up`.
spawn() {
  local service=$1 log="$STATE/log/$1.log" pid
  shift
  mkdir -p "$STATE/log" "$STATE/run"
  if [[ -f $log && $(stat -c %s "$log") -gt 10000000 ]]; then mv "$log" "$log.1"; fi
  setsid "$@" </dev/null >>"$log" 2>&1 9>&- &
  pid=$!
  printf '%s %s %s\n' "$pid" "$(started_at "$pid")" "$(boot_id)" >"$STATE/run/$service.pid"
}

pid_of() {
  local pid start boot
  read -r pid start boot 2>/dev/null <"$STATE/run/$1.pid" || return 1
  [[ $boot == "$(boot_id)" && -n $start && $(started_at "$pid") == "$start" ]] || return 1
  printf '%s' "$pid"
}

alive() { pid_of "$1" >/dev/null; }

children_of() {
  local stat fields
  for stat in /proc/[0-9]*/stat; do
    { fields=$(<"$stat"); } 2>/dev/null || continue
    fields=${fields##*) }
    read -ra fields <<<"$fields"
    if [[ ${fields[1]} == "$1" ]]; then basename "$(dirname "$stat")"; fi
  done
}

signal_service() {
  local pid
  pid=$(pid_of "$1") || return 0
  kill -s "$2" "$pid"
}

# PostgreSQL runs one process per connection: a crash or a stall must hit them all, as losing the machine would.
signal_tree() {
  local pid child
  pid=$(pid_of "$1") || die "$1 is not running"
  kill -s "$2" "$pid"
  for child in $(children_of "$pid"); do kill -s "$2" "$child" 2>/dev/null || true; done
}

kill_tree() {
  local pid=$1 child children
  kill -s STOP "$pid" # or it would start further children meanwhile
  children=$(children_of "$pid")
  kill -s KILL "$pid"
  for child in $children; do kill -s KILL "$child" 2>/dev/null || true; done
  for child in $children; do
    while started_at "$child" >/dev/null; do sleep 0.05; done
  done
}

wait_until_gone() {
  local service=$1 limit=$((SECONDS + $2))
  while alive "$service"; do
    ((SECONDS < limit)) || return 1
    sleep 0.05
  done
  rm -f "$STATE/run/$service.pid"
}

# Polls until the service answers; if its process dies or the limit passes, fails with the end of the log.
wait_until_ready() {
  local service=$1 limit=$((SECONDS + ${PULSEGATE_STACK_READY_SECONDS:-90})) told=$((SECONDS + 5))
  until answers "$service"; do
    if in_mode "$service" native && ! alive "$service"; then
      log_tail "$service"
      die "$service ended while starting; its log is $STATE/log/$service.log"
    fi
    if ((SECONDS >= limit)); then
      log_tail "$service"
      die "$service did not answer at $(address_of "$service") within ${PULSEGATE_STACK_READY_SECONDS:-90} s"
    fi
    if ((SECONDS >= told)); then
      say "waiting for $service at $(address_of "$service")"
      told=$((SECONDS + 5))
    fi
    sleep 0.1
  done
}

log_tail() {
  if [[ -f $STATE/log/$1.log ]]; then tail -n 15 "$STATE/log/$1.log" >&2; fi
}

# ----------------------------------------------------------------------------------------------------- ports

# Inode of the socket that listens on this TCP port, if any. Read from /proc, because ss and lsof may be missing.
listener_inode() {
  local hex
  hex=$(printf '%04X' "$1")
  cat /proc/net/tcp /proc/net/tcp6 2>/dev/null |
    awk -v port=":$hex" '$4 == "0A" && substr($2, length($2) - 4) == port { print $10; exit }'
}

# check_port PORT SERVICE VARIABLE: fails with the name of the foreign process if one holds the port.
check_port() {
  local port=$1 inode fd pid
  inode=$(listener_inode "$port")
  [[ -n $inode ]] || return 0
  local who="another process (its name cannot be read; try as root: ss -ltnp)"
  for fd in /proc/[0-9]*/fd/*; do
    if [[ $(readlink "$fd" 2>/dev/null) == "socket:[$inode]" ]]; then
      pid=${fd#/proc/} pid=${pid%%/*}
      who="pid $pid ($(tr '\0' ' ' <"/proc/$pid/cmdline" | cut -c1-120))"
      break
    fi
  done
  die "port $port, needed for $2, is held by $who. Stop it, or choose another port with $3."
}

tcp_answers() { (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null; }

# http_get HOST PORT PATH: succeeds on 200. Pure Bash, because a fresh machine has no curl.
http_get() {
  local reply
  reply=$(
    exec 2>/dev/null 3<>"/dev/tcp/$1/$2" || exit 1
    printf 'GET %s HTTP/1.0\r\nHost: %s\r\nAccept: */*\r\n\r\n' "$3" "$1" >&3
    IFS= read -r -t 3 line <&3 || exit 1
    printf '%s' "$line"
  ) || return 1
  [[ $reply == HTTP/1.*' 200 '* ]]
}
