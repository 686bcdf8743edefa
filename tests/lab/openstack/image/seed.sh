#!/usr/bin/env bash
# While the image is built: the databases with their schemas, the services' users and their endpoints.
set -euo pipefail
await() { for _ in $(seq 600); do if "$@" >/dev/null 2>&1; then return; fi; sleep 0.1; done; echo "gave up on: $*" >&2; return 1; }
listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1"); }

install -d -o mysql /run/mysqld
[ -d /var/lib/mysql/mysql ] || mariadb-install-db --user=mysql >/dev/null
mariadbd --user=mysql >/var/log/lab/seed-mariadb.log 2>&1 &
database=$!
await mariadb-admin ping
for each in keystone placement glance nova_api nova nova_cell0 neutron cinder; do
  echo "CREATE DATABASE $each CHARACTER SET utf8; GRANT ALL ON $each.* TO lab@'127.0.0.1' IDENTIFIED BY 'lab';"
done | mariadb

(
  nova-manage api_db sync
  nova-manage cell_v2 map_cell0 --database_connection 'mysql+pymysql://lab:lab@127.0.0.1/nova_cell0?charset=utf8'
  nova-manage db sync
  nova-manage cell_v2 create_cell --name cell1
) &
nova=$!
(
  placement-manage db sync
  neutron-db-manage --config-file /etc/neutron/neutron.conf --config-file /etc/neutron/plugins/ml2/ml2_conf.ini upgrade heads
) &
neutron=$!
keystone-manage db_sync
keystone-manage fernet_setup --keystone-user keystone --keystone-group keystone
keystone-manage credential_setup --keystone-user keystone --keystone-group keystone
url=http://127.0.0.1:5000/v3
keystone-manage bootstrap --bootstrap-password admin --bootstrap-region-id RegionOne \
  --bootstrap-admin-url $url --bootstrap-internal-url $url --bootstrap-public-url $url
memcached -u memcache -l 127.0.0.1 -m 16 &
memcached=$!
uwsgi --plugin python3 --http-socket 127.0.0.1:5000 --wsgi-file /usr/bin/keystone-wsgi-public --processes 1 --threads 2 \
  --master --lazy-apps --die-on-term --buffer-size 65535 --rem-header Content-Length >/var/log/lab/seed-keystone.log 2>&1 &
keystone=$!
glance-manage db_sync
cinder-manage db sync
await listens 5000
python3 - <<'PY'
import openstack

cloud = openstack.connect(
    auth_url="http://127.0.0.1:5000/v3",
    username="admin",
    password="admin",
    project_name="admin",
    user_domain_name="Default",
    project_domain_name="Default",
    region_name="RegionOne",
)
identity = cloud.identity
project = identity.create_project(name="service", domain_id="default")
roles = [identity.find_role("admin"), identity.find_role("service") or identity.create_role(name="service")]
for name, kind, url in (
    ("placement", "placement", "http://127.0.0.1:8778"),
    ("glance", "image", "http://127.0.0.1:9292"),
    ("nova", "compute", "http://127.0.0.1:8774/v2.1"),
    ("neutron", "network", "http://127.0.0.1:9696"),
    ("cinder", "volumev3", "http://127.0.0.1:8776/v3/%(project_id)s"),
):
    user = identity.create_user(name=name, password="lab", domain_id="default", default_project_id=project.id)
    for role in roles:
        assert identity.put(f"/projects/{project.id}/users/{user.id}/roles/{role.id}").ok
    service = identity.create_service(name=name, type=kind)
    for interface in ("public", "internal", "admin"):
        identity.create_endpoint(service_id=service.id, interface=interface, url=url, region_id="RegionOne")
PY
wait $nova
wait $neutron
for service in $keystone $memcached; do
  kill "$service"
  wait "$service" || [ $? = 143 ] # by SIGTERM
done
mariadb-admin shutdown
wait $database
