"""One tree of exceptions; each message says what was wrong, where, and what to do."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Every exit code and what it means: `testbed --help` and the reference show this table."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> Exit:
        """Make a member of `(code, meaning)`."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    OK = 0, "Done, and all is well."
    FAILED = 1, "Something failed, or is not well; the message says what and what to do."
    BAD_INPUT = 2, "The command line or `testbed.yaml` is wrong; nothing was changed."
    DECLINED = 3, "You did not agree, or nobody was there to ask; nothing was changed."
    BUSY = 4, "Another command works on this testbed or machine; nothing was changed."
    HUNG_UP = 129, "Stopped, as the terminal was closed; run the same command again to go on."
    STOPPED = 130, "Stopped with Ctrl-C; run the same command again to go on."
    TERMINATED = 143, "Stopped with SIGTERM; run the same command again to go on."


class TestbedError(Exception):
    """Something the person at the keyboard can mend.

    `remedy` is one sentence in the imperative; the CLI prints it below the message.
    """

    __test__ = False  # pytest collects classes named Test…
    exit_code: int = Exit.FAILED

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class SpecError(TestbedError):
    """testbed.yaml cannot be used as it stands."""

    exit_code = Exit.BAD_INPUT


class InputError(TestbedError):
    """The command line names what is not there."""

    exit_code = Exit.BAD_INPUT


class DeclinedError(TestbedError):
    """The person at the keyboard did not agree, or there was none to ask."""

    exit_code = Exit.DECLINED


class NoCheckoutError(TestbedError):
    """What the command needs is in the project's checkout only."""

    exit_code = Exit.BAD_INPUT


class SecretsError(TestbedError):
    """The deployment's secrets cannot be read or written."""


class CloudError(TestbedError):
    """The cloud refused something, or could not be reached."""


class LostError(CloudError):
    """A call to the cloud got no answer, or met an earlier one at work: looking again tells what was done."""


class UnreadError(CloudError):
    """Parts of the project cannot be read; `errors` has every reason."""

    def __init__(self, errors: list[CloudError]) -> None:
        distinct = list(dict.fromkeys(error.message for error in errors))
        remedies = list(dict.fromkeys(error.remedy for error in errors))
        super().__init__("\n".join(distinct), " ".join(remedies))
        self.errors = errors


class ShortError(CloudError):
    """The cloud lacks what the spec asks for: quota, image, flavor, network; nothing was changed."""

    exit_code = Exit.BAD_INPUT


class ReachError(TestbedError):
    """A host does not let us in by SSH."""


class ConvergeError(TestbedError):
    """A playbook did not finish."""


class BusyError(TestbedError):
    """Another command works on this testbed or machine; nothing was changed."""

    exit_code = Exit.BUSY


class StoppedError(TestbedError):
    """The command was stopped (Ctrl-C, SIGTERM, closed terminal); the message says what was done and what was not."""

    def __init__(self, message: str, remedy: str, *, exit_code: int) -> None:
        super().__init__(message, remedy)
        self.exit_code = exit_code


class ApiError(TestbedError):
    """The ClearML server refused a call, or could not be reached.

    `code` is the HTTP status (0: no answer), `subcode` ClearML's own (see the API's error table).
    """

    def __init__(self, message: str, remedy: str = "", *, code: int = 0, subcode: int = 0) -> None:
        super().__init__(message, remedy)
        self.code = code
        self.subcode = subcode
