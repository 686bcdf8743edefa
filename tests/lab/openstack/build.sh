#!/usr/bin/env bash
# The image of an OpenStack cloud (Debian's own packages) in one container, made with mmdebstrap. It carries no setting of this machine.
# `fake`: real APIs in front of nova's fake hypervisors. `libvirt`: and one hypervisor on which guests really boot (emulated).
# usage: build.sh SOCKET NAME DIR fake|libvirt
set -euo pipefail
socket=$1 name=$2 dir=$3 variant=$4
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

packages=(
  mariadb-server mariadb-client rabbitmq-server memcached supervisor uwsgi-core uwsgi-plugin-python3 iproute2 procps
  keystone glance-api placement-api nova-common nova-api nova-conductor nova-scheduler neutron-server
  cinder-api cinder-scheduler cinder-volume python3-openstacksdk
)
if [ "$variant" = libvirt ]; then
  packages+=(
    nova-compute nova-compute-kvm qemu-system-x86 qemu-utils libvirt-daemon-system libvirt-clients
    neutron-linuxbridge-agent neutron-dhcp-agent neutron-l3-agent neutron-metadata-agent
    dnsmasq-utils genisoimage iptables ebtables ipset conntrack iputils-ping openssh-client
  )
fi

if ! command -v mmdebstrap >/dev/null; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mmdebstrap >/dev/null
fi
# where this machine gets its own packages from
# shellcheck disable=SC2016
sources=$(apt-get indextargets --format '$(CREATED_BY) deb $(REPO_URI) $(RELEASE) $(COMPONENT)' | sed -n 's/^Packages \(.* bookworm\)/\1/p')
[ -n "$sources" ] || { echo "apt has no list of Debian bookworm; run apt-get update" >&2; exit 1; }
options=()
while read -r option; do options+=("--aptopt=$option"); done < <(apt-config dump | grep -E '^Acquire::(Check-|https?::)' || true)

# The hooks' "$1" is the new root. Nothing is started by packages; modules are compiled when they are first imported, which
# most never are. Databases are filled, and a keystone runs, in a network namespace without the ports of this machine.
# shellcheck disable=SC2016
mmdebstrap --quiet --mode=root --variant=essential --format=tar --include="$(IFS=,; echo "${packages[*]}")" "${options[@]}" \
  --aptopt='APT::Install-Recommends "false"' --dpkgopt=force-unsafe-io \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
  --essential-hook='printf "#!/bin/sh\nexit 101\n" >"$1/usr/sbin/policy-rc.d"; chmod 755 "$1/usr/sbin/policy-rc.d"' \
  --essential-hook='echo "dbconfig-common dbconfig-common/dbconfig-install boolean false" | chroot "$1" debconf-set-selections' \
  --essential-hook='chroot "$1" dpkg-divert --local --rename --add /usr/bin/py3compile; ln -s /bin/true "$1/usr/bin/py3compile"' \
  --customize-hook="copy-in $here/image /" --customize-hook='mv "$1/image" "$1/lab"' \
  --customize-hook='unshare --net chroot "$1" bash -euc "ip link set lo up; bash /lab/configure.sh; bash /lab/seed.sh"' \
  --customize-hook=': >"$1/etc/apt/sources.list"; rm -f "$1/etc/apt/apt.conf.d/99mmdebstrap"' \
  bookworm - - <<<"$sources" 2>"$dir/build.log" \
  | docker --host "unix://$socket" import -c 'CMD ["bash", "/lab/run.sh"]' - "$name" >/dev/null \
  || { tail -20 "$dir/build.log" >&2; exit 1; }
