"""One tree of exceptions; each message says what was wrong, where, and what to do."""

from __future__ import annotations


class TestbedError(Exception):
    """Something the person at the keyboard can mend.

    `remedy` is one sentence in the imperative; the CLI prints it below the message.
    """

    __test__ = False  # pytest collects classes named Test…
    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class SpecError(TestbedError):
    """testbed.yaml cannot be used as it stands."""

    exit_code = 2


class SecretsError(TestbedError):
    """The deployment's secrets cannot be read or written."""


class ConvergeError(TestbedError):
    """A playbook did not finish."""


class BusyError(TestbedError):
    """Another command works on this testbed."""


class ApiError(TestbedError):
    """The ClearML server refused a call, or could not be reached.

    `code` is the HTTP status (0: no answer), `subcode` ClearML's own (see the API's error table).
    """

    def __init__(self, message: str, remedy: str = "", *, code: int = 0, subcode: int = 0) -> None:
        super().__init__(message, remedy)
        self.code = code
        self.subcode = subcode
