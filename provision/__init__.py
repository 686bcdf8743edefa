"""The `testbed` command: all that runs on the administrator's machine."""
