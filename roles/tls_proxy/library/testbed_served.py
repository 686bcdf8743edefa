#!/usr/bin/python
"""Has nginx serve the certificate that is in its file, without a restart where it serves another."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: testbed_served
short_description: Have nginx serve a certificate
description: Asks nginx for its certificate; where that or its chain is another one, it is told to read its file again.
options:
  certificate: {type: str, required: true, description: 'The certificate (PEM), followed by its chain if it has one'}
  address: {type: str, required: true, description: Address of nginx}
  port: {type: int, required: true, description: Port of nginx}
  pid_file: {type: str, required: true, description: File with the process ID of nginx}
  timeout: {type: int, default: 20, description: Seconds to wait until it is served}
author: [The testbed's authors (@clearml-testbed)]
"""

BEGIN, END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
PARTIAL_CHAIN = 0x80000  # OpenSSL's; ssl.VERIFY_X509_PARTIAL_CHAIN of Python 3.10


class Wanted:
    """What is to be served at an address: a certificate, and the chain that follows it."""

    def __init__(self, certificate: str, address: str, port: int) -> None:
        self.where = address, port
        self.chain = split(certificate)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts this very certificate, and no other
        self.context.check_hostname = False
        self.context.verify_flags |= PARTIAL_CHAIN
        self.context.load_verify_locations(cadata=self.chain[0])

    def is_served(self) -> bool:
        """Tell whether it is; OSError where nobody answers."""
        with socket.create_connection(self.where, timeout=5) as plain:
            try:
                self.context.wrap_socket(plain).close()
            except ssl.SSLCertVerificationError:
                return False
        return len(self.chain) == 1 or self.shown() == self.chain

    def shown(self) -> list[bytes]:
        """Return the certificates that are shown (ssl has no way to ask for more than the first)."""
        address, port = self.where
        place = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        command = ["openssl", "s_client", "-showcerts", "-connect", place]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        try:
            done = subprocess.run(command, timeout=10, check=False, **pipes)
        except subprocess.TimeoutExpired:
            raise OSError("no certificate is shown within 10 s") from None
        return split(done.stdout.decode(errors="replace"))


def split(text: str) -> list[bytes]:
    """Return the certificates (DER) in a text, whatever is between them. ValueError where one is none."""
    return [ssl.PEM_cert_to_DER_cert(BEGIN + part.partition(BEGIN)[2] + END) for part in text.split(END)[:-1]]


def wait(wanted: Wanted, seconds: float, until_served: bool) -> bool:
    """Ask until there is an answer, or until it is the wanted one; tell whether that is served. OSError for none."""
    end = time.monotonic() + seconds
    while True:
        try:
            found = wanted.is_served()
            if found or not until_served or time.monotonic() > end:
                return found
        except OSError:
            if time.monotonic() > end:
                raise
        time.sleep(0.1)


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "certificate": {"type": "str", "required": True},
            "address": {"type": "str", "required": True},
            "port": {"type": "int", "required": True},
            "pid_file": {"type": "str", "required": True},
            "timeout": {"type": "int", "default": 20},
        },
        supports_check_mode=True,
    )
    where, seconds = (module.params["address"], module.params["port"]), module.params["timeout"]
    wanted, pid_file = Wanted(module.params["certificate"], *where), Path(module.params["pid_file"])
    told = [{"kind": "service", "name": "testbed-tls-proxy", "action": "change", "detail": "takes another certificate"}]
    try:
        if module.check_mode:
            other = pid_file.exists() and not wanted.is_served()
            module.exit_json(changed=other, testbed_changes=told if other else [])
        if wait(wanted, seconds, False):
            module.exit_json(changed=False, testbed_changes=[])
        os.kill(int(pid_file.read_text()), signal.SIGHUP)
        if wait(wanted, seconds, True):
            module.exit_json(changed=True, testbed_changes=told)
    except (OSError, ValueError) as error:
        if module.check_mode:  # it does not run, and will
            module.exit_json(changed=False, testbed_changes=[])
        module.fail_json(
            msg=f"nginx at {where[0]} port {where[1]}: {error}. See /var/log/testbed/testbed-tls-proxy.log"
        )
    module.fail_json(
        msg=f"nginx at {where[0]} port {where[1]} does not serve its certificate. Look at the clock of this host, "
        "and at /var/log/testbed/testbed-tls-proxy.log"
    )


if __name__ == "__main__":
    main()
