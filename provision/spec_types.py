"""What the models of testbed.yaml are made of: sections, and the kinds of values that several of them have."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

# what each pattern means to a person
MEANINGS = {
    (NAME := r"^[a-z][a-z0-9-]{0,31}$"): "lower-case letters, digits and hyphens, a letter first, at most 32",
    (USER_NAME := r"^[a-z][a-z0-9_-]{2,31}$"): "a Linux account name: 3 to 32 of a-z, 0-9, _ and -, a letter first",
    (QUEUE_NAME := r"^[A-Za-z0-9][A-Za-z0-9_.-]{2,63}$"): "3 to 64 letters, digits, '.', '_' and '-'",
    (IDENTIFIER := r"^[A-Za-z_][A-Za-z0-9_-]*$"): "letters, digits, '_' and '-', a letter first",
    (ABSOLUTE_PATH := r"^/[A-Za-z0-9._/-]*[A-Za-z0-9_-]$"): "an absolute path of letters, digits, '.', '_' and '-'",
    (HOST := r"^[A-Za-z0-9.:-]+$"): "a host name or an address",
    (URL := r"^https?://[^\s/@]+(/[^\s@]*)?$"): "http://HOST[:PORT] or https://HOST[:PORT], without user or password",
    # nova's limits of server tags, less the spaces
    (TAG := r"^[^/,\s]{1,60}$"): "1 to 60 characters without spaces, '/' and ','",
    (METADATA_KEY := r"^[a-zA-Z0-9_:. -]{1,255}$"): "1 to 255 letters, digits, spaces, '_', ':', '.' and '-'",
}
Name = Annotated[str, StringConstraints(pattern=NAME)]
UserName = Annotated[str, StringConstraints(pattern=USER_NAME)]
QueueName = Annotated[str, StringConstraints(pattern=QUEUE_NAME)]
Identifier = Annotated[str, StringConstraints(pattern=IDENTIFIER)]
AbsolutePath = Annotated[str, StringConstraints(pattern=ABSOLUTE_PATH)]
HostName = Annotated[str, StringConstraints(pattern=HOST)]
Url = Annotated[str, StringConstraints(pattern=URL)]
Tag = Annotated[str, StringConstraints(pattern=TAG)]
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


def refuse_duplicates(what: str, values: list[Any]) -> None:
    """Raise `ValueError` for the first of `values` that is there more than once."""
    for value in dict.fromkeys(values):
        if values.count(value) > 1:
            raise ValueError(f"{what} {value!r} is there {values.count(value)} times; each must be there once")


class Section(BaseModel):
    """A part of testbed.yaml: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
