# shellcheck shell=bash
# Location of the stack, mode of each service, and .stack/env, which passes the addresses on.

readonly STATE=${PULSEGATE_STACK_DIR:-$(dirname "$DOCKER_DIR")/.stack}
# shellcheck disable=SC2034 # other parts of the script read it
readonly DOWNLOADS=$STATE/downloads
readonly ADMIN_ROLE=pulsegate_admin

# A port keeps the value of the last `up` unless the environment overrides it; the defaults come last.
load_settings() {
  local command=$1
  KAFKA_PORT=$(setting PULSEGATE_STACK_KAFKA_PORT 9092)
  POSTGRES_PORT=$(setting PULSEGATE_STACK_POSTGRES_PORT 5432)
  REGISTRY_PORT=$(setting PULSEGATE_STACK_REGISTRY_PORT 8081)
  # KRaft's own listener; only the broker connects to it.
  KAFKA_CONTROLLER_PORT=$(setting PULSEGATE_STACK_KAFKA_CONTROLLER_PORT $((KAFKA_PORT + 1)))
  readonly KAFKA_PORT POSTGRES_PORT REGISTRY_PORT KAFKA_CONTROLLER_PORT
  refuse_moved_ports "$command"
  choose_modes "$command"
}

recorded() {
  if [[ -f $STATE/env ]]; then sed -n "s/^export $1='\(.*\)'\$/\1/p" "$STATE/env"; fi
}

setting() {
  local value=${!1:-}
  if [[ -z $value ]]; then value=$(recorded "$1"); fi
  printf '%s' "${value:-$2}"
}

# In a shell that sourced this stack's .stack/env the addresses are its own, except those listed as given.
given() {
  if [[ ${PULSEGATE_STACK_HOME:-} != "$STATE" || " ${PULSEGATE_STACK_GIVEN:-} " == *" $1 "* ]]; then
    printf '%s' "${!1:-}"
  fi
}

choose_modes() {
  GIVEN_BROKERS=$(given PULSEGATE_KAFKA__BROKERS)
  GIVEN_DATABASE_URL=$(given PULSEGATE_STACK_DATABASE_URL)
  GIVEN_REGISTRY_URL=$(given PULSEGATE_REGISTRY__URL)
  local ours
  ours=$(recorded PULSEGATE_STACK_MODE)
  # A running stack keeps its mode: an engine that appears or disappears must not hide what has to be stopped.
  if [[ -z $ours || $1 == up ]] && ! any_alive; then
    case ${PULSEGATE_STACK_MODE:-auto} in
      auto) if compose_possible; then ours=compose; else ours=native; fi ;;
      compose | native) ours=$PULSEGATE_STACK_MODE ;;
      *) die "PULSEGATE_STACK_MODE is '$PULSEGATE_STACK_MODE'; it can be auto, compose or native" ;;
    esac
  elif any_alive; then
    ours=native
  fi
  OUR_MODE=$ours
  MODE_KAFKA=${GIVEN_BROKERS:+external} MODE_KAFKA=${MODE_KAFKA:-$ours}
  MODE_POSTGRES=${GIVEN_DATABASE_URL:+external} MODE_POSTGRES=${MODE_POSTGRES:-$ours}
  MODE_REGISTRY=${GIVEN_REGISTRY_URL:+external} MODE_REGISTRY=${MODE_REGISTRY:-$ours}
  readonly GIVEN_BROKERS GIVEN_DATABASE_URL GIVEN_REGISTRY_URL OUR_MODE MODE_KAFKA MODE_POSTGRES MODE_REGISTRY
}

any_alive() { alive kafka || alive postgres || alive registry; }

# Moving the port of a running service would leave the old process running at an unknown address.
refuse_moved_ports() {
  local service port was
  [[ $1 == up || $1 == start ]] || return 0
  for service in "${SERVICES[@]}"; do
    port=${service^^}_PORT
    was=$(recorded "PULSEGATE_STACK_$port")
    if [[ -n $was && $was != "${!port}" ]] && alive "$service"; then
      die "$service runs on port $was, but port ${!port} is requested: run 'make down' first"
    fi
  done
}

host_and_port() { # of the first address in a list, without scheme, user and path; $2 if it has no port
  local address=${1#*://}
  address=${address##*@} address=${address%%[,/?]*}
  if [[ $address == *:* ]]; then
    printf '%s %s' "${address%:*}" "${address##*:}"
  else
    printf '%s %s' "$address" "$2"
  fi
}

brokers() { printf '%s' "${GIVEN_BROKERS:-127.0.0.1:$KAFKA_PORT}"; }

registry_url() { printf '%s' "${GIVEN_REGISTRY_URL:-http://127.0.0.1:$REGISTRY_PORT/apis/ccompat/v7}"; }

database_url() {
  if [[ -n $GIVEN_DATABASE_URL ]]; then
    printf '%s' "$GIVEN_DATABASE_URL"
  else
    printf 'postgres://%s:%s@127.0.0.1:%s/postgres' "$ADMIN_ROLE" "$(admin_password)" "$POSTGRES_PORT"
  fi
}

# The address without the password, for display.
postgres_address() {
  local host port
  read -r host port <<<"$(host_and_port "${GIVEN_DATABASE_URL:-127.0.0.1:$POSTGRES_PORT}" 5432)"
  printf '%s:%s' "$host" "$port"
}

# Created once with the database and kept beside its data.
admin_password() {
  local file=$STATE/postgres/admin.password
  if [[ ! -f $file ]]; then
    mkdir -p "$STATE/postgres"
    (umask 077 && od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >"$file")
  fi
  cat "$file"
}

write_env() {
  local file=$STATE/env
  mkdir -p "$STATE"
  (
    umask 077
    {
      echo "# Written by 'docker/stack up', to be sourced. Contains the password of the database's superuser."
      export_line PULSEGATE_STACK_HOME "$STATE"
      export_line PULSEGATE_STACK_MODE "$OUR_MODE"
      export_line PULSEGATE_STACK_GIVEN "${GIVEN_BROKERS:+PULSEGATE_KAFKA__BROKERS} ${GIVEN_DATABASE_URL:+PULSEGATE_STACK_DATABASE_URL} ${GIVEN_REGISTRY_URL:+PULSEGATE_REGISTRY__URL}"
      export_line PULSEGATE_STACK_KAFKA_PORT "$KAFKA_PORT"
      export_line PULSEGATE_STACK_KAFKA_CONTROLLER_PORT "$KAFKA_CONTROLLER_PORT"
      export_line PULSEGATE_STACK_POSTGRES_PORT "$POSTGRES_PORT"
      export_line PULSEGATE_STACK_REGISTRY_PORT "$REGISTRY_PORT"
      export_line PULSEGATE_STACK_DATABASE_URL "$(database_url)"
      # The same for the programs, under the name of their own setting.
      export_line PULSEGATE_DATABASES__ADMIN_URL "$(database_url)"
      export_line PULSEGATE_KAFKA__BROKERS "$(brokers)"
      export_line PULSEGATE_REGISTRY__URL "$(registry_url)"
    } >"$file.new"
  )
  # A reader sees either the old file or the new one, never a partial one; an unchanged file is not replaced.
  if cmp -s "$file.new" "$file"; then rm "$file.new"; else mv "$file.new" "$file"; fi
}

export_line() { printf "export %s='%s'\n" "$1" "${2//\'/\'\\\'\'}"; }
