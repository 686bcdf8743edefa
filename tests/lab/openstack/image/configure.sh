#!/usr/bin/env bash
# While the image is built: every service's configuration; with libvirt's packages also the real hypervisor's.
set -euo pipefail
libvirt=false
! command -v virsh >/dev/null || libvirt=true
db()   { echo "mysql+pymysql://lab:lab@127.0.0.1/$1?charset=utf8"; }
auth() { cat <<X
auth_type = password
auth_url = http://127.0.0.1:5000/v3
username = $1
password = lab
project_name = service
user_domain_name = Default
project_domain_name = Default
region_name = RegionOne
X
}
token() { printf '[keystone_authtoken]\n'; auth "$1"; cat <<X
www_authenticate_uri = http://127.0.0.1:5000
memcached_servers = 127.0.0.1:11211
service_token_roles = service
service_token_roles_required = true
X
}
rabbit='rabbit://guest:guest@127.0.0.1:5672/'
locks() { printf '[oslo_concurrency]\nlock_path = /var/lib/%s/tmp\n' "$1"; mkdir -p "/var/lib/$1/tmp"; }

# --- infrastructure -------------------------------------------------------------
cat > /etc/mysql/mariadb.conf.d/99-lab.cnf <<X
[mysqld]
bind-address = 127.0.0.1
max_connections = 600
performance_schema = off
innodb_flush_log_at_trx_commit = 0
innodb_doublewrite = 0
innodb_buffer_pool_size = 128M
innodb_log_file_size = 32M
skip-log-bin
skip-name-resolve
X
cat > /etc/rabbitmq/rabbitmq-env.conf <<X
NODENAME=rabbit@localhost
NODE_IP_ADDRESS=127.0.0.1
SERVER_ADDITIONAL_ERL_ARGS="+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none"
X
printf 'log.console = false\nlog.file.level = warning\n' > /etc/rabbitmq/rabbitmq.conf

# --- keystone -------------------------------------------------------------------
cat > /etc/keystone/keystone.conf <<X
[DEFAULT]
[database]
connection = $(db keystone)
max_pool_size = 10
[token]
provider = fernet
expiration = 86400
[fernet_tokens]
key_repository = /etc/keystone/fernet-keys
[credential]
key_repository = /etc/keystone/credential-keys
[identity]
password_hash_rounds = 4
[cache]
enabled = true
backend = dogpile.cache.memcached
memcache_servers = 127.0.0.1:11211
X

# --- placement ------------------------------------------------------------------
{ cat <<X
[DEFAULT]
[api]
auth_strategy = keystone
[placement_database]
connection = $(db placement)
X
token placement; } > /etc/placement/placement.conf

# --- glance ---------------------------------------------------------------------
{ cat <<X
[DEFAULT]
bind_host = 0.0.0.0
bind_port = 9292
workers = 1
[database]
connection = $(db glance)
[paste_deploy]
flavor = keystone
[glance_store]
stores = file
default_store = file
filesystem_store_datadir = /var/lib/glance/images
X
token glance; locks glance; } > /etc/glance/glance-api.conf
mkdir -p /var/lib/glance/images

# --- nova -----------------------------------------------------------------------
{ cat <<X
[DEFAULT]
transport_url = $rabbit
my_ip = 127.0.0.1
state_path = /var/lib/nova
enabled_apis = osapi_compute,metadata
osapi_compute_workers = 2
metadata_workers = 1
wsgi_default_pool_size = 1000
compute_driver = lab_nova.LabFakeDriver
vif_plugging_is_fatal = false
vif_plugging_timeout = 0
rpc_response_timeout = 180
# servers that ask for no zone must not land on the broken host
default_schedule_zone = az1
max_concurrent_builds = 20
service_down_time = 120
# the default waits up to 60 s at random before the first periodic task, so before hosts are discovered
periodic_fuzzy_delay = 0
[api]
auth_strategy = keystone
[api_database]
connection = $(db nova_api)
[database]
connection = $(db nova)
max_pool_size = 20
max_overflow = 40
[conductor]
workers = 2
[scheduler]
workers = 1
discover_hosts_in_cells_interval = 5
[filter_scheduler]
enabled_filters = ComputeFilter,ComputeCapabilitiesFilter,ImagePropertiesFilter,ServerGroupAntiAffinityFilter,ServerGroupAffinityFilter
[vnc]
enabled = false
[service_user]
send_service_user_token = true
$(auth nova)
[placement]
$(auth nova)
[cinder]
catalog_info = volumev3::publicURL
os_region_name = RegionOne
$(auth nova)
[neutron]
$(auth nova)
service_metadata_proxy = true
metadata_proxy_shared_secret = lab
X
token nova; locks nova; } > /etc/nova/nova.conf

# --- neutron --------------------------------------------------------------------
mech=lab_fake; ! $libvirt || mech=linuxbridge,lab_fake
{ cat <<X
[DEFAULT]
core_plugin = ml2
service_plugins = router
transport_url = $rabbit
api_workers = 2
rpc_workers = 1
rpc_state_report_workers = 0
# clients keep connections open, and the default of 100 is soon held by those that do nothing
wsgi_default_pool_size = 1000
notify_nova_on_port_status_changes = true
notify_nova_on_port_data_changes = true
dhcp_agents_per_network = 1
[database]
connection = $(db neutron)
max_pool_size = 20
max_overflow = 40
[nova]
$(auth nova)
[experimental]
linuxbridge = true
[agent]
root_helper = sudo /usr/bin/neutron-rootwrap /etc/neutron/rootwrap.conf
[quotas]
quota_port = 2000
quota_floatingip = 500
X
token neutron; locks neutron; } > /etc/neutron/neutron.conf
mkdir -p /etc/neutron/plugins/ml2
cat > /etc/neutron/plugins/ml2/ml2_conf.ini <<X
[ml2]
type_drivers = local,flat
tenant_network_types = local
mechanism_drivers = $mech
extension_drivers = port_security
[ml2_type_flat]
flat_networks = public
[securitygroup]
enable_security_group = true
X
site=/usr/local/lib/python3.11/dist-packages
mkdir -p $site/lab_ml2-1.dist-info
cp "$(dirname "$0")"/lab_{ml2,cinder}.py $site/
# nova takes drivers from this package only
cp "$(dirname "$0")/lab_nova.py" /usr/lib/python3/dist-packages/nova/virt/
printf 'Metadata-Version: 2.1\nName: lab-mech\nVersion: 1\n' > $site/lab_ml2-1.dist-info/METADATA
printf '[neutron.ml2.mechanism_drivers]\nlab_fake = lab_ml2:LabFakeMechanismDriver\n' \
    > $site/lab_ml2-1.dist-info/entry_points.txt

# --- cinder ---------------------------------------------------------------------
{ cat <<X
[DEFAULT]
transport_url = $rabbit
my_ip = 127.0.0.1
state_path = /var/lib/cinder
auth_strategy = keystone
enabled_backends = fake
rootwrap_config = /etc/cinder/rootwrap.conf
glance_api_servers = http://127.0.0.1:9292
[fake]
volume_backend_name = fake
volume_driver = lab_cinder.LabFakeVolumeDriver
[database]
connection = $(db cinder)
[service_user]
send_service_user_token = true
$(auth cinder)
[nova]
$(auth nova)
X
token cinder; locks cinder; } > /etc/cinder/cinder.conf

# --- supervisor -----------------------------------------------------------------
mkdir -p /var/log/lab /etc/lab
cat > /etc/lab/supervisord.conf <<X
[supervisord]
nodaemon = true
user = root
logfile = /var/log/lab/supervisord.log
pidfile = /run/supervisord.pid
minfds = 1024
[unix_http_server]
file = /run/supervisor.sock
[supervisorctl]
serverurl = unix:///run/supervisor.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[include]
files = /etc/lab/programs.d/*.conf
X
rm -rf /etc/lab/programs.d; mkdir -p /etc/lab/programs.d
prog() { # name autostart command...
    local name=$1 auto=$2; shift 2
    cat > "/etc/lab/programs.d/$name.conf" <<X
[program:$name]
command = $*
autostart = $auto
autorestart = true
startsecs = 0
startretries = 10
stopasgroup = true
killasgroup = true
stopwaitsecs = 15
redirect_stderr = true
stdout_logfile = /var/log/lab/$name.log
stdout_logfile_maxbytes = 50MB
stdout_logfile_backups = 1
X
}
# uwsgi ends every connection; clients that are not told so send their next call into a closed one
wsgi() { # port script processes threads
    echo "uwsgi --plugin python3 --http-socket 0.0.0.0:$1 --wsgi-file $2 --processes $3 --threads $4" \
         "--master --lazy-apps --enable-threads --die-on-term --need-app --buffer-size 65535 --listen 100" \
         "--rem-header Content-Length --add-header 'Connection: close' --disable-logging"
}
prog mariadb  true  mariadbd --user=mysql
prog rabbitmq  true  "bash -c 'ulimit -n 16384 && exec rabbitmq-server'"
prog memcached true memcached -u memcache -l 127.0.0.1 -m 64
prog keystone  false "$(wsgi 5000 /usr/bin/keystone-wsgi-public 2 2)"
prog placement false "$(wsgi 8778 /usr/bin/placement-api 2 2)"
prog glance    false glance-api --config-file /etc/glance/glance-api.conf
prog nova-api  false nova-api
prog nova-conductor false nova-conductor
prog nova-scheduler false nova-scheduler
prog neutron   false neutron-server --config-file /etc/neutron/neutron.conf \
                     --config-file /etc/neutron/plugins/ml2/ml2_conf.ini
# cinder's green threads hang beside real ones
prog cinder-api       false "$(wsgi 8776 /usr/bin/cinder-wsgi 3 1)"
prog cinder-scheduler false cinder-scheduler
prog cinder-volume    false cinder-volume
# fake compute hosts: programs are made at start by run.sh, one per host
$libvirt || exit 0

# --- the real host: libvirt with emulation, linuxbridge, dhcp, l3, metadata --------
cat > /etc/libvirt/qemu.conf <<X
user = "root"
group = "root"
security_driver = "none"
namespaces = []
cgroup_controllers = []
X
cat > /etc/lab/lab.conf <<X
[DEFAULT]
host = lab
compute_driver = libvirt.LibvirtDriver
vif_plugging_is_fatal = true
vif_plugging_timeout = 120
# a host's own memory is not what a test of many small guests should run out of
reserved_host_memory_mb = 0
[libvirt]
virt_type = qemu
cpu_mode = none
X
agent=/etc/neutron/plugins/ml2/linuxbridge_agent.ini
cat > $agent <<X
[linux_bridge]
bridge_mappings = public:br-ext
[vxlan]
enable_vxlan = false
[securitygroup]
enable_security_group = true
firewall_driver = iptables
enable_ipset = true
X
cat > /etc/neutron/dhcp_agent.ini <<X
[DEFAULT]
interface_driver = linuxbridge
dhcp_driver = neutron.agent.linux.dhcp.Dnsmasq
enable_isolated_metadata = true
X
cat > /etc/neutron/l3_agent.ini <<X
[DEFAULT]
interface_driver = linuxbridge
X
cat > /etc/neutron/metadata_agent.ini <<X
[DEFAULT]
nova_metadata_host = 127.0.0.1
metadata_proxy_shared_secret = lab
metadata_workers = 1
X
n=(--config-file /etc/neutron/neutron.conf --config-file)
prog virtlogd true virtlogd
prog libvirtd true libvirtd
prog real-linuxbridge false neutron-linuxbridge-agent "${n[@]}" /etc/neutron/plugins/ml2/ml2_conf.ini --config-file $agent
prog real-dhcp     false neutron-dhcp-agent "${n[@]}" /etc/neutron/dhcp_agent.ini
prog real-l3       false neutron-l3-agent "${n[@]}" /etc/neutron/l3_agent.ini
prog real-metadata false neutron-metadata-agent "${n[@]}" /etc/neutron/metadata_agent.ini
prog compute-lab   false nova-compute --config-file /etc/nova/nova.conf --config-file /etc/lab/lab.conf
