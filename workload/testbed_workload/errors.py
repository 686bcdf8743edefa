"""What the command prints as one line: what was wrong, where, and what to do."""


class WorkloadError(Exception):
    """The base of every error that the user can do something about."""


class SettingsError(WorkloadError):
    """A setting is missing or cannot be."""


class SourceError(WorkloadError):
    """InfluxDB did not give what was asked of it."""


class ServerError(WorkloadError):
    """The ClearML server did not do what was asked of it."""
