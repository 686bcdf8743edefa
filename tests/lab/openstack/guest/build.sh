#!/usr/bin/env bash
# Images of small Debian guests for the emulated host: kernel, ramdisk, `root.qcow2` (the disk is the root filesystem)
# and `lvm.qcow2` (a partition, in it a volume group, in it the root filesystem).
# They need no boot loader, as glance hands nova kernel and ramdisk; so none of it needs a loop device here.
# usage: build.sh SOCKET DIR QEMU_IMAGE
#   DIR: where they are made; QEMU_IMAGE: an image of docker's that has qemu (the cloud's own)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
socket=$1 out=$2 qemu=$3
root=$out/rootfs
packages=systemd-sysv,udev,dbus,kmod,linux-image-cloud-amd64,initramfs-tools,zstd,ifupdown,isc-dhcp-client,iproute2,netbase
packages+=,openssh-server,sudo,cloud-init,cloud-guest-utils,fdisk,lvm2,e2fsprogs,xfsprogs,procps,iputils-ping
packages+=,python3-cffi-backend # which debootstrap does not find for python3-cryptography
packages+=,python3,python3-venv,logrotate,ca-certificates # what role common would install: guests have no archive at hand
sources=$(cat /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null || true)
mirror=$(awk '/security/ {next} /^URIs:/ {print $2; exit} $1 == "deb" {for (i = 2; i <= NF; i++) if ($i ~ /:\/\//) {print $i; exit}}' <<<"$sources")
rm -rf --one-file-system "$root"
mkdir -p "$out"
debootstrap --variant=minbase --include="$packages" bookworm "$root" "$mirror" >"$out/debootstrap.log" 2>&1 \
  || { tail -5 "$out/debootstrap.log" >&2; exit 1; }
: >"$root/etc/apt/sources.list"
# a ramdisk of what this guest's hardware needs: to unpack a whole one is slow under emulation
sed -i 's/^MODULES=.*/MODULES=list/; s/^COMPRESS=.*/COMPRESS=zstd/' "$root/etc/initramfs-tools/initramfs.conf"
printf '%s\n' virtio_pci virtio_blk virtio_net ext4 crc32c_generic dm_mod >"$root/etc/initramfs-tools/modules"
mount -t proc proc "$root/proc"
trap 'umount "$root/proc"' EXIT
chroot "$root" update-initramfs -u -k all >>"$out/debootstrap.log" 2>&1
umount "$root/proc"
trap - EXIT
echo guest >"$root/etc/hostname"
cat >"$root/etc/cloud/cloud.cfg.d/90_lab.cfg" <<'CONFIG'
datasource_list: [ConfigDrive, OpenStack]
datasource: {OpenStack: {max_wait: 120, timeout: 20, retries: 5}}
manage_etc_hosts: true
apt_preserve_sources_list: true
package_update: false
locale: false
ssh_genkeytypes: [ed25519, ecdsa]
CONFIG
for unit in apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer systemd-timesyncd.service; do
  rm -f "$root"/etc/systemd/system/*.wants/$unit
done
rm -rf "$root"/etc/ssh/ssh_host_* "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}/*
: >"$root/etc/machine-id"
cp "$root"/boot/vmlinuz-* "$out/vmlinuz"
cp "$root"/boot/initrd.img-* "$out/initrd"
rm -f "$out"/{root,lvm}.raw
install -m 755 "$here/make-lvm.sh" "$root/make-lvm.sh"
mke2fs -q -t ext4 -L builder -d "$root" "$out/builder.raw" 1600M
rm "$root/make-lvm.sh"
printf '/dev/vda / ext4 defaults,noatime 0 1\n' >"$root/etc/fstab"
mke2fs -q -t ext4 -L root -d "$root" "$out/root.raw" 1600M
rm -rf --one-file-system "$root"
truncate -s 2560M "$out/lvm.raw"
there() { docker --host "unix://$socket" run --rm --network none -v "$out:/out" "$qemu" "$@"; }
# the guest itself makes the volume group: this machine's kernel may have no device mapper
there timeout 900 qemu-system-x86_64 -machine accel=tcg -m 768 -nographic -no-reboot -kernel /out/vmlinuz -initrd /out/initrd \
  -append 'root=/dev/vda rw console=ttyS0 init=/make-lvm.sh panic=-1 quiet' -nic none \
  -drive file=/out/builder.raw,format=raw,if=virtio,cache=unsafe -drive file=/out/lvm.raw,format=raw,if=virtio,cache=unsafe \
  </dev/null >"$out/make-lvm.log" 2>&1
grep -q 'LVM IS MADE' "$out/make-lvm.log" || { tail -20 "$out/make-lvm.log" >&2; exit 1; }
for name in root lvm; do
  there qemu-img convert -f raw -O qcow2 -c "/out/$name.raw" "/out/$name.qcow2"
done
rm -f "$out"/*.raw
