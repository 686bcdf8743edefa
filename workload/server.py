"""The ClearML server, before anything is asked of it."""

from __future__ import annotations

import re
from typing import Any

from workload.errors import ServerError, reason

RETRIES = {"total": 3, "connect": 3, "read": 3, "redirect": 3, "backoff_factor": 0.5, "backoff_max": 2.0}


def login() -> Any:
    """An API client. The SDK itself waits for minutes for a server that does not answer. Raises ServerError."""
    from clearml.backend_api import Session
    from clearml.backend_api.session.client import APIClient

    host = Session.get_api_server_host()
    try:
        Session(http_retries_config=dict(RETRIES))
    except Exception as error:  # the SDK raises a type of its own for each reason, and urllib3's
        raise ServerError(
            f"cannot log in to the ClearML server at {host} ({reason(error)}): check clearml.conf, and that it runs"
        ) from error
    return APIClient()


def need_queue(queue: str) -> None:
    """Log in, and look for the queue. Raises ServerError when it is not there."""
    if not login().queues.get_all(name=f"^{re.escape(queue)}$"):
        raise ServerError(f"the ClearML server has no queue {queue!r}: check --queue, and that an agent serves it")
