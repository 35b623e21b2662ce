# shellcheck shell=bash
# Apicurio Registry, through the API that Confluent's clients speak.

registry_stop_signal() { echo TERM; }

registry_check_ports() { check_port "$REGISTRY_PORT" registry PULSEGATE_STACK_REGISTRY_PORT; }

registry_answers() {
  local host port url path
  url=$(registry_url)
  path=${url#*://}
  if [[ $path == */* ]]; then path=/${path#*/}; else path=""; fi
  read -r host port <<<"$(host_and_port "$url" 80)"
  if [[ $url == https://* ]]; then
    [[ ${url#*://} == *:* ]] || port=443
    tcp_answers "$host" "$port"
  else
    http_get "$host" "$port" "${path%/}/subjects"
  fi
}

# Kafka keeps records with schema ids across a restart, so the registry must keep its ids too: H2 in a file, which needs
# neither of the other services and so survives the tests that stop those.
registry_start() {
  mkdir -p "$STATE/registry/tmp"
  APICURIO_STORAGE_KIND=sql \
    APICURIO_STORAGE_SQL_KIND=h2 \
    APICURIO_DATASOURCE_URL="jdbc:h2:file:$STATE/registry/registry;WRITE_DELAY=0" \
    QUARKUS_HTTP_HOST=127.0.0.1 \
    QUARKUS_HTTP_PORT="$REGISTRY_PORT" \
    QUARKUS_HTTP_ACCESS_LOG_ENABLED=false \
    spawn registry "$JAVA" -Xmx384m -XX:+ExitOnOutOfMemoryError -XX:TieredStopAtLevel=1 -Djava.awt.headless=true \
    -Djava.net.preferIPv4Stack=true "-Djava.io.tmpdir=$STATE/registry/tmp" \
    -jar "$DOWNLOADS"/registry/apicurio-registry-app-*-runner.jar
}
