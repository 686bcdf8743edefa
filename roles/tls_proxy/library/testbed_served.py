#!/usr/bin/python
"""Has nginx serve the certificate that is in its file, without a restart where it serves another."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: testbed_served
short_description: Have nginx serve a certificate
description: Asks nginx for its certificate; where that is another one, it is told to read its file again.
options:
  certificate: {type: str, required: true, description: 'The certificate (PEM), with or without its chain'}
  address: {type: str, required: true, description: Address of nginx}
  port: {type: int, required: true, description: Port of nginx}
  pid_file: {type: str, required: true, description: File with the process ID of nginx}
  timeout: {type: int, default: 20, description: Seconds to wait until it is served}
author: [The testbed's authors (@clearml-testbed)]
"""

END = "-----END CERTIFICATE-----"
PARTIAL_CHAIN = 0x80000  # OpenSSL's; ssl.VERIFY_X509_PARTIAL_CHAIN of Python 3.10


def only(certificate: str) -> ssl.SSLContext:
    """Return what trusts the first of these certificates, and no other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # it is the very certificate, or it is refused
    context.verify_flags |= PARTIAL_CHAIN
    context.load_verify_locations(cadata=certificate[: certificate.index(END) + len(END)])
    return context


def serves(address: str, port: int, context: ssl.SSLContext) -> bool:
    """Tell whether the trusted certificate is served; OSError where nobody answers."""
    with socket.create_connection((address, port), timeout=5) as plain:
        try:
            context.wrap_socket(plain).close()
        except ssl.SSLCertVerificationError:
            return False
    return True


def wait(address: str, port: int, context: ssl.SSLContext, seconds: float, until_served: bool) -> bool:
    """Ask until there is an answer, or until it is the wanted one; tell whether that is served. OSError for none."""
    end = time.monotonic() + seconds
    while True:
        try:
            found = serves(address, port, context)
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
    wanted = module.params
    where, context = (wanted["address"], wanted["port"]), only(wanted["certificate"])
    pid_file = Path(wanted["pid_file"])
    told = [{"kind": "service", "name": "testbed-tls-proxy", "action": "change", "detail": "takes another certificate"}]
    try:
        if module.check_mode:
            other = pid_file.exists() and not serves(*where, context)
            module.exit_json(changed=other, testbed_changes=told if other else [])
        if wait(*where, context, wanted["timeout"], False):
            module.exit_json(changed=False, testbed_changes=[])
        os.kill(int(pid_file.read_text()), signal.SIGHUP)
        if wait(*where, context, wanted["timeout"], True):
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
