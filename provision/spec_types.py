"""What the models of testbed.yaml are made of: sections, and the kinds of values that several of them have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

# what each pattern means to a person
MEANINGS = {
    (NAME := r"^[a-z][a-z0-9-]{0,31}$"): "lower-case letters, digits and hyphens, a letter first, at most 32",
    (USER_NAME := r"^[a-z][a-z0-9_-]{2,31}$"): "a Linux account name: 3 to 32 of a-z, 0-9, _ and -, a letter first",
    (QUEUE_NAME := r"^[A-Za-z0-9][A-Za-z0-9_.-]{2,63}$"): "3 to 64 letters, digits, '.', '_' and '-'",
    (
        MODEL_NAME := r"^[A-Za-z0-9_.-][A-Za-z0-9_. -]+[A-Za-z0-9_.-]$"
    ): "3 or more letters, digits, '.', '_', '-' and ' '",
    (
        PROJECT_NAME
        := r"^[A-Za-z0-9_.-][A-Za-z0-9_. -]+[A-Za-z0-9_.-](/[A-Za-z0-9_.-][A-Za-z0-9_. -]+[A-Za-z0-9_.-])*$"
    ): "3 or more letters, digits, '.', '_', '-' and ' ', such parts after one another with '/' between",
    (IDENTIFIER := r"^[A-Za-z_][A-Za-z0-9_-]*$"): "letters, digits, '_' and '-', a letter first",
    (ABSOLUTE_PATH := r"^/[A-Za-z0-9._/-]*[A-Za-z0-9_-]$"): "an absolute path of letters, digits, '.', '_' and '-'",
    (HOST := r"^[A-Za-z0-9.:-]+$"): "a host name or an address",
    (URL := r"^https?://[^\s/@]+(/[^\s@]*)?$"): "http://HOST[:PORT] or https://HOST[:PORT], without user or password",
    (GPUS := r"^(none|all|[0-9]{1,2}(,[0-9]{1,2})*)$"): "none, all, or indexes of GPUs such as 0 or 0,1",
    # nova's limits of server tags, less the spaces
    (TAG := r"^[^/,\s]{1,60}$"): "1 to 60 characters without spaces, '/' and ','",
    (VERSION := r"^[0-9]+\.[0-9]+\.[0-9]+$"): "a version, such as 2.4.0",
    (
        IMAGE := r"^[a-zA-Z0-9][a-zA-Z0-9._:/-]*(@sha256:[0-9a-f]{64})?$"
    ): "[REGISTRY/]NAME:TAG or [REGISTRY/]NAME@sha256:DIGEST",
    (REGISTRY := r"^[a-zA-Z0-9][a-zA-Z0-9.-]*(:[0-9]+)?(/[a-z0-9._/-]+)?$"): "HOST[:PORT][/PREFIX] without a scheme",
    (NETWORK := r"^[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+/[0-9]+$"): "a network, such as 10.213.0.0/16",
    (QUERY := r"^[A-Za-z0-9_]+=[^\s&'\"]*(&[A-Za-z0-9_]+=[^\s&'\"]*)*$"): "options, such as authSource=admin&tls=true",
    (METADATA_KEY := r"^[a-zA-Z0-9_:. -]{1,255}$"): "1 to 255 letters, digits, spaces, '_', ':', '.' and '-'",
}
Name = Annotated[str, StringConstraints(pattern=NAME)]
UserName = Annotated[str, StringConstraints(pattern=USER_NAME)]
QueueName = Annotated[str, StringConstraints(pattern=QUEUE_NAME)]
ModelName = Annotated[str, StringConstraints(pattern=MODEL_NAME)]
ProjectName = Annotated[str, StringConstraints(pattern=PROJECT_NAME)]
Identifier = Annotated[str, StringConstraints(pattern=IDENTIFIER)]
AbsolutePath = Annotated[str, StringConstraints(pattern=ABSOLUTE_PATH)]
HostName = Annotated[str, StringConstraints(pattern=HOST)]
Url = Annotated[str, StringConstraints(pattern=URL)]
Tag = Annotated[str, StringConstraints(pattern=TAG)]
# `gpus: 0` is a number to YAML
Gpus = Annotated[
    Annotated[str, StringConstraints(pattern=GPUS)],
    BeforeValidator(lambda value: str(value) if type(value) is int else value),
]
Version = Annotated[str, StringConstraints(pattern=VERSION)]
Registry = Annotated[str, StringConstraints(pattern=REGISTRY)]
MetadataKey = Annotated[str, StringConstraints(pattern=METADATA_KEY)]


def _without_login(value: Any) -> Any:
    # before the pattern's own message, which shows what it found
    if isinstance(value, str) and "@" in value:
        raise ValueError(
            "must not hold a user or a password, which every process on the hosts could read; "
            "let the proxy or mirror admit the hosts by their addresses, or run a forwarder that knows the password"
        )
    return value


OpenUrl = Annotated[Url, BeforeValidator(_without_login)]
Port = Annotated[int, Field(strict=True, ge=1, le=65535)]
Count = Annotated[int, Field(strict=True, ge=1)]

SHORTEST_RSA_BITS = 2048
SSH_KEY_TYPES = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ssh-rsa",
)

# what may live on a host; of the single ones there is one in a testbed
Group = Literal["server", "agents", "clients", "telemetry", "inference"]
GROUPS: tuple[Group, ...] = ("server", "agents", "clients", "telemetry", "inference")
SINGLE: tuple[Group, ...] = ("server", "telemetry")


def refuse_duplicates(what: str, values: list[Any]) -> None:
    """Raise `ValueError` for the first of `values` that is there more than once."""
    for value in dict.fromkeys(values):
        if values.count(value) > 1:
            raise ValueError(f"{what} {value!r} is there {values.count(value)} times; each must be there once")


def public_key(line: str) -> str:
    """Return type and key of a public key line. Raises `ValueError`, which never shows what was found."""
    if "PRIVATE KEY" in line:
        raise ValueError(
            "holds a private key; take the line of the .pub file, and make a new key pair if others saw this one"
        )
    kind, *rest = line.split() or [""]
    if kind not in SSH_KEY_TYPES and any(word in SSH_KEY_TYPES for word in rest):
        raise ValueError("has options before the key; give the key alone")
    if kind not in SSH_KEY_TYPES or not rest or "\n" in line.strip():
        kinds = ", ".join(SSH_KEY_TYPES)
        raise ValueError(f"must hold public keys, each one line of a .pub file that begins with one of: {kinds}")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    found = f"{kind} {rest[0]}"
    try:
        key = load_ssh_public_key(found.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(
            f"has a {kind} key that is cut off or mistyped; copy the whole line of the .pub file"
        ) from None
    if isinstance(key, RSAPublicKey) and key.key_size < SHORTEST_RSA_BITS:
        raise ValueError(f"has an RSA key of {key.key_size} bits, which is weak; make a new one: ssh-keygen -t ed25519")
    return found


def _public_keys(lines: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(public_key(line) for line in lines)


PublicKeys = Annotated[tuple[str, ...], AfterValidator(_public_keys)]


class Section(BaseModel):
    """A part of testbed.yaml: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class JumpHost(Section):
    """An SSH gateway in front of the hosts."""

    host: HostName
    """Its name or address."""
    user: UserName
    """The account there."""
    port: Port = 22
    """Its SSH port."""
    key: Path | None = None
    """The private key file for it; without it, what ssh offers by itself."""
