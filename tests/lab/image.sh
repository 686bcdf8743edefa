#!/usr/bin/env bash
# The image of a Debian host that boots systemd, made with debootstrap. It carries no setting of this machine.
# usage: image.sh SOCKET NAME DIR PUBLIC_KEY
set -euo pipefail
socket=$1 name=$2 dir=$3 key=$4
root=$dir/rootfs
packages=systemd,sudo,systemd-sysv,dbus,iproute2,openssh-server,python3,python3-venv,logrotate,procps,ca-certificates
sources=$(cat /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null || true)
mirror=$(awk '/security/ {next} /^URIs:/ {print $2; exit} $1 == "deb" {for (i = 2; i <= NF; i++) if ($i ~ /:\/\//) {print $i; exit}}' <<<"$sources")
debootstrap --variant=minbase --include="$packages" bookworm "$root" "$mirror" >"$dir/debootstrap.log" 2>&1 \
  || { tail -5 "$dir/debootstrap.log" >&2; exit 1; }
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}/*
: >"$root/etc/apt/sources.list"
: >"$root/etc/machine-id"
chroot "$root" ssh-keygen -A >/dev/null # a throw-away host's: the image never leaves this machine
install -D -m 600 "$key" "$root/root/.ssh/authorized_keys"
# the kernel is shared: a container must not set its parameters, and has no disks or consoles of its own
for unit in ssh.service systemd-sysctl.service systemd-modules-load.service systemd-remount-fs.service dev-hugepages.mount dev-mqueue.mount \
  sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount getty.target console-getty.service \
  apt-daily.timer apt-daily-upgrade.timer; do
  ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
tar -C "$root" --numeric-owner --one-file-system -c . \
  | docker --host "unix://$socket" import -c 'ENV container=docker' -c 'CMD ["/lib/systemd/systemd"]' - "$name" >/dev/null
rm -rf --one-file-system "$root"
