"""The keys that are published with the official server, by identity: no deployment may accept them."""

from __future__ import annotations

import base64
import hmac

from provision.secrets import KeyPair

_PUBLISHED = {
    "apiserver": (
        "62T8CP7HGBC6647XF9314C2VY67RJO",
        "gaOfhDX2-bpkeI7-cwEcaMuGijxaG2UG3jbIvg4DxmVGF0LNI7rgvCb1-ne38IlBo1w",
    ),
    "fileserver": (
        "GSQWPEKSKNKF354LC9V6BHXKTYFD5I",
        "tuBXcGQBECsEhcNiK2kiWi750z9r8Z85XrQ9V0c24huTuCb2xf2X1nKG",
    ),
    "webserver": (
        "EYVQ385RW7Y2QQUH88CZ7DWIQ1WUHP",
        "XhkH6a6ds9JBnM_MrahYyYdO-wS2bqFSm8gl-V0UZXH26Ydd6Eyi28TeBEoSr6Z3Bes",
    ),
    "tests": (
        "EGRTCO8JMSIGI6S39GTP43NFWXDQOW",
        "LPEJbGJ6bK4tujQcmrD3i1dbMBDdwUwelVa-LG0K0FFmY9bzH_H0Sw",
    ),
}
PUBLIC_KEYS = {
    name: KeyPair(access_key=access_key, secret_key=secret_key) for name, (access_key, secret_key) in _PUBLISHED.items()
}
# what tokens are signed with where nobody has set another secret
PUBLIC_TOKEN_SECRET = "Rq8FW84sSqVgq7WvBB_4EzNl9y8z8IGiDXX3C345_a5AZfcwZcwCIA"  # noqa: S105 (published)


def signed(token: str, secret: str) -> str:
    """Return a token with the same claims, signed with another secret."""
    content = token.rpartition(".")[0]
    signature = hmac.digest(secret.encode(), content.encode(), "sha256")
    return f"{content}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"
