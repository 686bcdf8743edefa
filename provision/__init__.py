"""The `testbed` command: all that runs on the administrator's machine."""

__version__ = "0.1.0"
