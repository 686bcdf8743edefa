#!/usr/bin/env bash
# A Docker Engine of the lab's own, with data, socket and pid file below DIR.
# usage: dockerd.sh start|stop DIR
set -euo pipefail
action=$1 dir=$2
case $action in
  start)
    if ! command -v dockerd >/dev/null || ! command -v debootstrap >/dev/null; then
      apt-get update -qq
      DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends docker.io debootstrap >/dev/null
    fi
    mkdir -p "$dir"
    setsid dockerd --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/pid" --host "unix://$dir/docker.sock" \
      --bridge none --iptables=false --ip6tables=false >"$dir/log" 2>&1 </dev/null &
    for _ in $(seq 300); do
      if docker --host "unix://$dir/docker.sock" version >/dev/null 2>&1; then exit 0; fi
      sleep 0.1
    done
    tail -5 "$dir/log" >&2
    exit 1
    ;;
  stop)
    pid=$(cat "$dir/pid")
    kill "$pid"
    tail --pid "$pid" -f /dev/null
    # it leaves the namespace that it began with mounted
    awk -v dir="$dir/" 'index($2, dir) == 1 {print $2}' /proc/mounts | tac | xargs --no-run-if-empty umount
    ;;
  *)
    echo "usage: dockerd.sh start|stop DIR" >&2
    exit 2
    ;;
esac
