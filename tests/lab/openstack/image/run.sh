#!/usr/bin/env bash
# The container's first process: the databases, then the OpenStack services, all under supervisord.
#   LAB_FAKES  fake hypervisors (default 3; none where there is the real one, `lab`); one more, `broken-1`, fails every build
set -euo pipefail
real=false
[ ! -e /etc/lab/lab.conf ] || real=true
fakes=${LAB_FAKES:-$($real && echo 0 || echo 3)}
install -d -o mysql /run/mysqld

hypervisor() { # HOST DRIVER
  printf '[DEFAULT]\nhost = %s\ncompute_driver = %s\n' "$1" "$2" >"/etc/lab/$1.conf"
  cat >"/etc/lab/programs.d/compute-$1.conf" <<X
[program:compute-$1]
command = python3 -c "import sys; from nova.cmd.compute import main; sys.argv[0] = 'nova-compute'; main()" --config-file /etc/nova/nova.conf --config-file /etc/lab/$1.conf
autostart = false
startsecs = 0
stopasgroup = true
killasgroup = true
redirect_stderr = true
stdout_logfile = /var/log/lab/compute-$1.log
X
}
rm -f /etc/lab/programs.d/compute-{fake,broken}-*.conf
for number in $(seq "$fakes"); do hypervisor "fake-$number" lab_nova.LabFakeDriver; done
hypervisor broken-1 fake.FakeBuildAbortDriver
if $real; then
  # the outside: floating IPs live on this bridge, and the container is their gateway
  ip link show br-ext >/dev/null 2>&1 || ip link add br-ext type bridge
  ip addr replace 172.31.240.1/22 dev br-ext
  ip link set br-ext up
  sysctl -qw net.ipv4.ip_forward=1
fi

ctl() { supervisorctl -c /etc/lab/supervisord.conf "$@"; }
listen() { # PORT…: wait until all of them listen
  for port; do
    for _ in $(seq 600); do
      if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then break; fi
      sleep 0.1
    done
  done
}
supervisord -c /etc/lab/supervisord.conf &
supervisord=$!
trap 'ctl shutdown >/dev/null; wait $supervisord' TERM INT
# nova-scheduler and nova-compute give up where keystone or placement is not there yet, so: in stages
listen 3306 11211
# the catalogue names the address that the cloud has here
read -r address _ < <(hostname -i)
mariadb keystone -e "UPDATE endpoint SET url = REPLACE(url, '127.0.0.1', '$address')"
ctl start keystone placement glance
listen 5672 5000 8778
ctl start neutron nova-conductor nova-scheduler nova-api
if $real; then
  listen 9696 # agents that start before neutron back off for a long time
  ctl start real-linuxbridge real-dhcp real-l3 real-metadata
fi
for program in /etc/lab/programs.d/compute-*.conf; do ctl start "$(basename "$program" .conf)"; done
ctl start cinder-api cinder-scheduler cinder-volume
wait $supervisord
