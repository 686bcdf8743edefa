"""The commands of docs/openstack.md, as written, in a project that has what the page's testbed.yaml names."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pexpect
import pytest

from provision.paths import ROOT
from tests.integration.docs.test_commands import CLOUD, blocks
from tests.lab.openstack.cloud import Cloud

PAGE = ROOT / "docs" / "openstack.md"
LONGEST_S = 600
STOPPED = 130


@pytest.fixture
def administrator(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder with `./testbed` and the page's testbed.yaml; clouds.yaml has entry `lab`, as the page says."""
    with cloud.project("docs", {"cores": 20, "ram": 51200}) as project:
        monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(project.clouds_yaml(tmp_path)))
        for name in ("CONFIG", "STATE"):
            monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name))
        admin = cloud.admin
        image = admin.create_image(
            "ubuntu-24.04",
            data=b"\0" * 65536,
            disk_format="raw",
            container_format="bare",
            visibility="public",
            wait=True,
        )
        folder = tmp_path / "administrator"
        folder.mkdir()
        (folder / "testbed").symlink_to(ROOT / "testbed")
        (spec,) = [block.text for block in blocks(PAGE) if block.language == "yaml"]
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")], check=True)
        own, _, _ = (folder / "key.pub").read_text().rpartition(" ")
        spec = re.sub("ssh-ed25519 [A-Za-z0-9+/]+", own, spec)  # the page tells its reader to do that
        (folder / "testbed.yaml").write_text(spec.replace("  cloud: lab", f"  key: {folder}/key\n  cloud: lab"))
        yield folder
        admin.image.delete_image(image.id)


def test_the_page_from_clouds_yaml_to_a_testbed_that_is_gone(administrator: Path) -> None:
    found = [block for block in blocks(PAGE) if block.language == "bash"]
    assert {block.setting for block in found} == set(CLOUD)
    for block in found:
        script = administrator / "block"
        script.write_text(block.text)
        environment = {**os.environ, "TERM": "xterm"}
        terminal = pexpect.spawn(
            "bash", ["-eu", str(script)], cwd=str(administrator), encoding="utf-8", timeout=LONGEST_S, env=environment
        )
        until_ssh = block.setting == "cloud, until SSH"
        shown = ""
        # nobody answers on a server whose hypervisor is fake
        if until_ssh and terminal.expect([pexpect.EOF, "Wait for SSH"]) == 1:
            shown = terminal.before
            terminal.sendintr()
        terminal.expect(pexpect.EOF)
        terminal.close()
        assert terminal.exitstatus == (STOPPED if until_ssh else 0), (
            f"{block.where}: {(shown + terminal.before)[-3000:]}"
        )
