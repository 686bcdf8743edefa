"""Existing clusters: the server's host is asked whether it reaches them, and what it does not reach is told."""

from __future__ import annotations

import json
import socket
import types
from pathlib import Path

import pytest

from provision import diagnosis, inventory, machines, spec, stores
from provision.diagnosis import Seen

SPEC = "name: lab\nprovider: local\nusers: [{{name: alice}}]\nserver: {{{server}}}\n"


@pytest.fixture
def session(tmp_path):
    """A function from the server's section to a session on this machine."""

    def open_one(server):
        testbed = spec.parse(SPEC.format(server=server), "t.yaml")
        wheels = inventory.Wheels(lite=Path("lite.whl"), workload=Path("workload.whl"))
        found = inventory.build(testbed, machines.local("root"), wheels, {})
        file = tmp_path / "inventory.json"
        file.write_text(json.dumps(found))
        return types.SimpleNamespace(testbed=testbed, inventory=found, inventory_file=file, hosts=["local"])

    return open_one


def test_a_cluster_that_answers_is_well_and_one_that_does_not_is_told(session):
    with socket.create_server(("127.0.0.1", 0)) as there, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # taken, and nobody listens
        well, silent = there.getsockname()[1], closed.getsockname()[1]
        named = f"mongo: {{host: 127.0.0.1, port: {well}}}, elasticsearch: {{host: 127.0.0.1, port: {silent}}}"
        found = stores.look(session(f"backend: docker, stores: {{{named}}}"), away=())
    assert [(store.name, store.port) for store in found] == [("mongo", well), ("elasticsearch", silent)]
    assert found[0].problem == ""
    assert "refused" in found[1].problem
    [problem] = diagnosis.problems(Seen(stores=found))
    assert problem.message.startswith(f"server.stores.elasticsearch: 127.0.0.1:{silent} does not answer the server: ")
    assert problem.remedy


def test_each_member_of_a_replica_set_is_looked_at(session):
    members = "mongo: {host: m1.example, further_hosts: [m2.example], query: replicaSet=rs0}, redis: {host: r.example}"
    testbed = session(f"backend: docker, stores: {{{members}}}").testbed
    assert stores.named(testbed) == [
        ("mongo", "m1.example", 27017),
        ("mongo", "m2.example", 27017),
        ("redis", "r.example", 6379),
    ]


@pytest.mark.parametrize("server", ["", "backend: docker"])
def test_without_clusters_no_host_is_asked(session, server, monkeypatch):
    monkeypatch.setattr(stores.hosts, "connect", None)
    assert stores.look(session(server), away=()) == []


def test_a_host_that_is_away_is_not_asked(session, monkeypatch):
    opened = session("backend: docker, stores: {redis: {host: 127.0.0.1}}")
    monkeypatch.setattr(stores.hosts, "connect", None)
    assert stores.look(opened, away={"local"}) == []
