"""Host keys are read from what cloud-init prints on a console."""

from __future__ import annotations

import pytest

from provision.cloud.console import read
from provision.machines import Console

ED = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGh8Xo6GJ2iFoFhPAPMnDtnVd0yOP7xYbTWKbBmMM1Yq"
OTHER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDkqHbPmDR6Y5wUoF0v3cFCu0ZJ7ZbFh3N2b0x7Wj0aL"
RSA = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAAQI="
BEGIN, END = "-----BEGIN SSH HOST KEY KEYS-----", "-----END SSH HOST KEY KEYS-----"
BOOT = "[    0.000000] Linux version 6.1.0\r\ncloud-init[301]: Cloud-init v. 22.4.2 running 'init'\r\n"
FINISHED = (
    "[   61.2] cloud-init[402]: Cloud-init v. 22.4.2 finished at Sun, 22 Nov 2026 08:00:00 +0000. Up 61 seconds\n"
)


def block(*lines):
    return "\r\n".join([BEGIN, *lines, END, ""])


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("", Console((), final=False)),
        (BOOT, Console((), final=False)),
        (BOOT + f"{BEGIN}\r\n{ED} root@guest\r\n", Console((), final=False)),  # it is still printing
        (BOOT + block(f"{ED} root@guest", f"{RSA} root@guest"), Console((ED, RSA), final=True)),
        # syslog's prefix, as Ubuntu's images have it
        (
            f"<14>Nov 22 08:00:01 cloud-init: {BEGIN}\n<14>Nov 22 08:00:01 cloud-init: {ED} root@a\n<14>{END}\n",
            Console((ED,), final=True),
        ),
        # the kernel wrote into a line
        (BOOT + block(f"{ED[:40]}[   60.1] audit: x", f"{RSA} root@guest"), Console((RSA,), final=True)),
        # a line was lost whole, and cloud-init goes on
        (BOOT + block(ED[:40]), Console((), final=False)),
        # an image made of a server that had printed its own
        (block(f"{OTHER} root@before") + BOOT + block(f"{ED} root@guest"), Console((ED,), final=True)),
        # the beginning has rolled over
        (f"{ED} root@guest\r\n{END}\r\n{FINISHED}", Console((), final=True)),
        (BOOT + FINISHED, Console((), final=True)),  # the image was told to print none
        (BOOT + block(f"{ED} root@guest") + FINISHED, Console((ED,), final=True)),
        ("FAKE CONSOLE OUTPUT\nANOTHER\nLAST LINE", Console((), final=False)),
    ],
)
def test_a_console_tells_keys_or_that_none_will_come(output, expected):
    assert read(output) == expected
