# shellcheck shell=bash
# Apache Kafka, one node, KRaft.

kafka_stop_signal() { echo TERM; }

kafka_check_ports() {
  check_port "$KAFKA_PORT" kafka PULSEGATE_STACK_KAFKA_PORT
  if in_mode kafka native; then
    check_port "$KAFKA_CONTROLLER_PORT" "kafka's controller" PULSEGATE_STACK_KAFKA_CONTROLLER_PORT
  fi
}

# Sends a Metadata request (key 3, version 4: the oldest version that both Kafka 2 and 4 support, for no topics); the
# response must name a broker. Kafka's own tools would do the same after starting a JVM for two seconds. A broker given
# by the environment may require TLS or SASL, which this does not support: there an open connection is enough.
kafka_answers() {
  local host port
  read -r host port <<<"$(host_and_port "$(brokers)" 9092)"
  if in_mode kafka external; then
    tcp_answers "$host" "$port"
    return
  fi
  local reply
  reply=$(
    exec 2>/dev/null 3<>"/dev/tcp/$host/$port" || exit 1
    printf '\x00\x00\x00\x14\x00\x03\x00\x04\x00\x00\x00\x01\x00\x05stack\x00\x00\x00\x00\x00' >&3
    # Length, correlation id, throttle time, number of brokers: four bytes each.
    timeout 3 head -c 16 <&3 | od -An -v -tu1
  ) || return 1
  local bytes
  read -r -d '' -a bytes <<<"$reply" || true
  ((${#bytes[@]} == 16 && bytes[15] >= 1))
}

kafka_start() {
  local data=$STATE/kafka config=$STATE/run/kafka.properties
  mkdir -p "$STATE/run" "$data"
  {
    cat "$DOCKER_DIR/native/kafka.properties"
    echo "listeners=PLAINTEXT://127.0.0.1:$KAFKA_PORT,CONTROLLER://127.0.0.1:$KAFKA_CONTROLLER_PORT"
    echo "advertised.listeners=PLAINTEXT://127.0.0.1:$KAFKA_PORT"
    echo "controller.quorum.voters=1@127.0.0.1:$KAFKA_CONTROLLER_PORT"
    echo "log.dirs=$data"
  } >"$config"
  local classes="$DOWNLOADS/kafka/*"
  if [[ ! -f $data/meta.properties ]]; then
    # KRaft requires a formatted directory before the first start. An interrupted first run leaves no meta.properties.
    rm -rf "$data"
    "$JAVA" -Xmx256m -XX:TieredStopAtLevel=1 "-Dlog4j2.configurationFile=$DOCKER_DIR/native/log4j2.xml" \
      -cp "$classes" kafka.tools.StorageTool format --cluster-id "$(new_cluster_id)" --config "$config" \
      >>"$STATE/log/kafka.log" 2>&1 || {
      log_tail kafka
      die "Kafka failed to format $data; its log is $STATE/log/kafka.log"
    }
  fi
  spawn kafka "$JAVA" -Xms256m -Xmx1g -XX:+ExitOnOutOfMemoryError -Djava.awt.headless=true \
    "-Dlog4j2.configurationFile=$DOCKER_DIR/native/log4j2.xml" -cp "$classes" kafka.Kafka "$config"
}

# 16 random bytes in URL-safe base64; a leading dash would look like an option.
new_cluster_id() { printf 'P%s' "$(head -c 16 /dev/urandom | base64 | tr '+/' '-_' | cut -c1-20)A"; }
