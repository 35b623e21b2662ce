# shellcheck shell=bash
# The same three services as containers, if a Docker engine answers.

compose_possible() {
  have docker && timeout 10 docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1
}

# One Compose project per clone, so that two clones on one machine do not share containers or volumes.
compose() {
  env KAFKA_PORT="$KAFKA_PORT" KAFKA_CONTROLLER_PORT="$KAFKA_CONTROLLER_PORT" POSTGRES_PORT="$POSTGRES_PORT" \
    REGISTRY_PORT="$REGISTRY_PORT" ADMIN_ROLE="$ADMIN_ROLE" ADMIN_PASSWORD_FILE="$STATE/postgres/admin.password" \
    docker compose --project-name "pulsegate-$(printf '%s' "$STATE" | cksum | cut -d ' ' -f 1)" \
    --file "$DOCKER_DIR/compose.yaml" "$@"
}

# compose_start SERVICE. The database container reads the password from the stack's file.
compose_start() {
  admin_password >/dev/null
  compose up --detach --no-recreate "$1"
}

compose_running() { [[ -n $(compose ps --quiet --status running "$1" 2>/dev/null) ]]; }

compose_down() {
  if [[ $OUR_MODE == compose ]]; then compose down; fi
}

compose_wipe() {
  if [[ $OUR_MODE == compose ]]; then compose down --volumes; fi
}
