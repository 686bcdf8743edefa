#!/bin/bash
# Runs as the builder's PID 1: copies its own system into a volume group on the second disk.
set -eu
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
# the ramdisk may have mounted them already
mountpoint -q /proc || mount -t proc proc /proc
mountpoint -q /sys || mount -t sysfs sys /sys
mountpoint -q /dev || mount -t devtmpfs dev /dev
mount -t tmpfs run /run
modprobe dm_mod
printf 'label: gpt\n2048,,V\n' | sfdisk --quiet /dev/vdb
export DM_DISABLE_UDEV=1 # nobody runs udev here
pvcreate -q /dev/vdb1
vgcreate -q lab /dev/vdb1
lvcreate -q -y -Wn -Zn -l 100%FREE -n root lab
vgmknodes
mke2fs -q -t ext4 /dev/mapper/lab-root
mkdir /run/new
mount /dev/mapper/lab-root /run/new
tar -C / --one-file-system --exclude=./make-lvm.sh --exclude=./lost+found -c . | tar -C /run/new -x
printf '/dev/mapper/lab-root / ext4 defaults,noatime 0 1\n' >/run/new/etc/fstab
umount /run/new
vgchange -q -an lab
sync
echo LVM IS MADE
echo o >/proc/sysrq-trigger
sleep 60
