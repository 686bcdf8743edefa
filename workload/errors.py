"""What the command prints as one line: what was wrong, where, and what to do."""

from __future__ import annotations


class WorkloadError(Exception):
    """The base of every error that the user can do something about."""


class SettingsError(WorkloadError):
    """A setting is missing or cannot be."""


class SourceError(WorkloadError):
    """InfluxDB did not give what was asked of it."""


class DiskError(WorkloadError):
    """A file could not be written."""


class ServerError(WorkloadError):
    """The ClearML server did not do what was asked of it."""


class StepError(WorkloadError, ValueError):
    """A step of the workload cannot do with what it was given."""


class ModelError(WorkloadError):
    """A registered model cannot be used."""


def reason(error: BaseException) -> str:
    """An error of `requests` or of the SDK in a few words: they wrap the one that says what happened several times."""
    cause = error
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__ or cause
    words = cause.strerror if isinstance(cause, OSError) else str(error).strip().partition("\n")[0]
    return words or type(cause).__name__
