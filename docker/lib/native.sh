# shellcheck shell=bash
# What the native mode needs from the machine and from the package registries.

readonly DEBIAN_SUITE=trixie
DEBIAN_MIRROR=${PULSEGATE_STACK_DEBIAN_MIRROR:-http://deb.debian.org/debian}

# native_prepare SERVICE...: finds or downloads everything that these services need. The two downloads run in parallel.
native_prepare() {
  local service java="" debian=""
  for service in "$@"; do
    case $service in
      kafka | registry) java=yes ;;
      postgres) debian=yes ;;
    esac
  done
  mkdir -p "$DOWNLOADS" "$STATE/log" "$STATE/run"
  chmod 0755 "$STATE"
  local jars=0 debs=0
  if [[ -n $debian ]]; then require_root; fi
  if [[ -n $java ]]; then require_java; fi
  if [[ -n $debian && ! -e $ROOTFS/.complete ]]; then
    require_tool debootstrap debootstrap
    say "fetching PostgreSQL 17 with TimescaleDB from $DEBIAN_MIRROR (once, about a minute)"
    fetch_rootfs >"$STATE/log/debootstrap.log" 2>&1 9>&- &
    debs=$!
  fi
  if [[ -n $java && $(cat "$DOWNLOADS/jars.complete" 2>/dev/null) != "$(jars_wanted)" ]]; then
    require_tool mvn maven
    say "fetching Kafka and Apicurio Registry from Maven Central (once, about 150 MB)"
    fetch_jars >"$STATE/log/maven.log" 2>&1 9>&- &
    jars=$!
  fi
  local failed=""
  if ((jars)) && ! wait "$jars"; then failed+=" maven"; fi
  if ((debs)) && ! wait "$debs"; then failed+=" debootstrap"; fi
  for service in $failed; do
    log_tail "$service"
    say "error: the download with $service failed; its log is $STATE/log/$service.log"
  done
  [[ -z $failed ]] || exit 1
}

require_root() {
  ((EUID == 0)) || die "the native PostgreSQL needs root (debootstrap and chroot), and no Docker engine answers." \
    "Run as root, start Docker, or give an address in PULSEGATE_STACK_DATABASE_URL."
  have chroot || die "chroot is missing: install coreutils"
}

# require_tool COMMAND PACKAGE
require_tool() {
  have "$1" || die "$1 is missing: apt-get install --no-install-recommends $2 (or 'make setup', which does it)"
}

# Kafka 4 and Apicurio 3 need Java 17. Uses the first of JAVA_HOME, PATH and Debian's directories that is new enough.
require_java() {
  local candidate
  for candidate in "${JAVA_HOME:+$JAVA_HOME/bin/java}" "$(command -v java || true)" /usr/lib/jvm/*/bin/java; do
    if [[ -x $candidate ]] && (($(java_major "$candidate") >= 17)); then
      JAVA=$candidate
      return
    fi
  done
  die "no Java 17 or newer in JAVA_HOME, PATH or /usr/lib/jvm:" \
    "apt-get install --no-install-recommends openjdk-17-jre-headless (or 'make setup', which does it)"
}

java_major() {
  local version
  version=$("$1" -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -n 1)
  printf '%s' "${version:-0}"
}

# A changed version in the POM requires a new download.
jars_wanted() { sha256sum <"$DOCKER_DIR/native/pom.xml"; }

fetch_jars() {
  rm -rf "$DOWNLOADS/kafka" "$DOWNLOADS/registry" "$DOWNLOADS/jars.complete"
  JAVA_HOME=$(dirname "$(dirname "$(readlink -f "$JAVA")")") \
    mvn --batch-mode --no-transfer-progress --file "$DOCKER_DIR/native/pom.xml" \
    "-Dstack.downloads=$DOWNLOADS" process-resources
  mkdir -p "$DOWNLOADS/registry"
  tar --extract --gzip --file "$DOWNLOADS/registry.tar.gz" --directory "$DOWNLOADS/registry"
  rm -f "$DOWNLOADS/registry.tar.gz"
  jars_wanted >"$DOWNLOADS/jars.complete"
}

# --variant=minbase omits what only a bootable machine needs. The server's user gets our uid.
fetch_rootfs() {
  rm -rf "$ROOTFS" "$ROOTFS.new"
  debootstrap --variant=minbase --include=postgresql-17-timescaledb "$DEBIAN_SUITE" "$ROOTFS.new" "$DEBIAN_MIRROR"
  chroot "$ROOTFS.new" groupmod --gid "$PG_UID" postgres
  chroot "$ROOTFS.new" usermod --uid "$PG_UID" --gid "$PG_UID" postgres
  rm -rf "$ROOTFS.new"/var/cache/apt/archives/*.deb "$ROOTFS.new"/var/lib/apt/lists/*
  touch "$ROOTFS.new/.complete"
  mv "$ROOTFS.new" "$ROOTFS"
}
