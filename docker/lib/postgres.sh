# shellcheck shell=bash
# PostgreSQL 17 with TimescaleDB: Debian's packages in a separate root, entered by chroot as an unprivileged user.

readonly ROOTFS=$DOWNLOADS/rootfs
# A uid that no distribution assigns, so that on the host these processes and files belong to no other user.
readonly PG_UID=54320
readonly PG_BIN=/usr/lib/postgresql/17/bin
# Path inside the root, below $ROOTFS outside. PostgreSQL sees nothing outside of its root, so its data are in it.
readonly PG_DATA=/var/lib/stack/data

postgres_stop_signal() { echo INT; } # "fast" shutdown: roll back open transactions, do not wait for clients

postgres_check_ports() { check_port "$POSTGRES_PORT" postgres PULSEGATE_STACK_POSTGRES_PORT; }

postgres_answers() {
  case $MODE_POSTGRES in
    native) inside "$PG_BIN/pg_isready" --quiet ;;
    # Over TCP, because a temporary server answers on the socket while the image initialises its database.
    compose) compose exec -T postgres pg_isready --quiet --host 127.0.0.1 --username "$ADMIN_ROLE" >/dev/null 2>&1 ;;
    external)
      local host port
      read -r host port <<<"$(host_and_port "$GIVEN_DATABASE_URL" 5432)"
      tcp_answers "$host" "$port"
      ;;
  esac
}

inside() {
  chroot --userspec=$PG_UID:$PG_UID --groups= "$ROOTFS" /usr/bin/env -i PATH="$PG_BIN:/usr/bin:/bin" \
    LANG=C.UTF-8 HOME=/var/lib/stack PGHOST=/run/stack PGPORT="$POSTGRES_PORT" PGUSER="$ADMIN_ROLE" PGDATABASE=postgres \
    "$@"
}

postgres_start() {
  [[ -f $ROOTFS$PG_DATA/PG_VERSION ]] || postgres_init
  forget_dead_postmaster
  {
    cat "$DOCKER_DIR/native/postgresql.conf"
    echo "port = $POSTGRES_PORT"
  } >"$ROOTFS$PG_DATA/stack.conf"
  spawn postgres chroot --userspec=$PG_UID:$PG_UID --groups= "$ROOTFS" /usr/bin/env -i PATH="$PG_BIN:/usr/bin:/bin" \
    LANG=C.UTF-8 HOME=/var/lib/stack "$PG_BIN/postgres" -D "$PG_DATA"
}

# Created under another name and renamed when complete: an interrupted first run leaves no apparent database.
postgres_init() {
  local new=$ROOTFS$PG_DATA.new
  rm -rf "$new" "$ROOTFS$PG_DATA"
  install -d -o $PG_UID -g $PG_UID -m 0700 "$ROOTFS/var/lib/stack" "$ROOTFS/run/stack"
  rm -f "$STATE/postgres/admin.password" # belongs to a deleted database
  admin_password >/dev/null
  install -o $PG_UID -g $PG_UID -m 0600 "$STATE/postgres/admin.password" "$ROOTFS/var/lib/stack/password"
  mkdir -p "$STATE/log"
  inside "$PG_BIN/initdb" --pgdata "$PG_DATA.new" --username "$ADMIN_ROLE" --pwfile /var/lib/stack/password \
    --auth-local peer --auth-host scram-sha-256 --encoding UTF8 --locale C.UTF-8 --locale-provider builtin \
    --builtin-locale C.UTF-8 --data-checksums >>"$STATE/log/postgres.log" 2>&1 || {
    log_tail postgres
    die "initdb failed; its output is in $STATE/log/postgres.log"
  }
  rm -f "$ROOTFS/var/lib/stack/password"
  echo "include 'stack.conf'" >>"$new/postgresql.conf"
  # Over TCP every role needs a password. Over the socket only the server's own user can connect, as the superuser.
  cat >"$new/pg_hba.conf" <<'HBA'
local all all           peer map=stack
host  all all 127.0.0.1/32 scram-sha-256
HBA
  echo "stack postgres $ADMIN_ROLE" >"$new/pg_ident.conf"
  mv "$new" "$ROOTFS$PG_DATA"
}

# If process 1 is slow to reap, a killed server remains a zombie whose pid still accepts signals, and PostgreSQL would
# believe that it is running. Only that case is handled here; a live server rightly holds its lock. The files stay, with
# a pid that Linux never assigns, because they name the shared memory that the next server must free.
forget_dead_postmaster() {
  local lock pid
  for lock in "$PG_DATA/postmaster.pid" "/run/stack/.s.PGSQL.$POSTGRES_PORT.lock"; do
    if [[ -f $ROOTFS$lock ]] && read -r pid <"$ROOTFS$lock" && [[ -d /proc/$pid ]] && ! started_at "$pid" >/dev/null
    then
      inside sed -i '1s/.*/4194305/' "$lock"
    fi
  done
}

wipe_postgres() { rm -rf "$ROOTFS/var/lib/stack" "$ROOTFS/run/stack"; }
