"""Errors that clearml_lite answers with or stops with."""

from typing import Any


class ConfigError(Exception):
    """The configuration cannot be used; the message names file, key and remedy."""


class DataError(Exception):
    """Data or a backup cannot be used as they are; the message names the file and the remedy."""


class ApiError(Exception):
    """An answer other than success.

    Args:
        code: HTTP status and result code.
        subcode: the official server's subcode for this error.
        message: result message.
        details: shown in the message as `key=value`.
    """

    def __init__(self, code: int, subcode: int, message: str, **details: Any) -> None:
        shown = ", ".join(f"{key}={value}" for key, value in details.items())
        super().__init__(f"{message}: {shown}" if shown else message)
        self.code = code
        self.subcode = subcode
        self.message = message
        self.details = details


def validation_error(field: str, reason: str) -> ApiError:
    """A request that does not fit its schema or makes no sense."""
    return ApiError(400, 12, f"Validation error (error for field '{field}'. {reason})")


def invalid_id(subcode: int, kind: str, identifier: object, company: str) -> ApiError:
    """An entity that is not there."""
    return ApiError(400, subcode, f"Invalid {kind} id", id=identifier, company=company)
