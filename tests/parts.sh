#!/bin/sh
# The real parts that the tests start and that pip cannot bring: Prometheus (with promtool) from Debian.
# Kafka's jars come through tests/jars/pom.xml when the first test needs a broker.
# What cannot be installed here is left to the tests: they skip loudly, or fail where CI=true.
set -u
missing=""
for part in prometheus; do
  command -v "$part" >/dev/null 2>&1 || missing="$missing $part"
done
[ -z "$missing" ] && exit 0
if ! command -v apt-get >/dev/null 2>&1; then
  echo "not a Debian system: install$missing yourself to run every test" >&2
  exit 0
fi
root=""
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null 2>&1 || { echo "not root and no sudo: install$missing yourself" >&2; exit 0; }
  root="sudo -n"
fi
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086
{ $root apt-get update -qq && $root apt-get install -y -qq --no-install-recommends $missing; } >/dev/null 2>&1 \
  || echo "could not install$missing; their tests will be skipped, or fail where CI=true" >&2
exit 0
