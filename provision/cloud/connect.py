"""A connection to the cloud that retries what may pass, and errors that say what to do."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from provision.errors import CloudError, LostError

if TYPE_CHECKING:
    from openstack.connection import Connection
    from requests.adapters import HTTPAdapter

# What may pass by itself. A POST that is refused is repeated, too. One without an answer of the service's own is not:
# it may be at work still, or done: who looks what is there knows more.
PASSING = (429, 500, 502, 503, 504)
REFUSED = (429, 503)  # nothing was done
RETRIES = 6
READ_RETRIES = 2  # each may have waited for TIMEOUT_S
BACKOFF_S = 0.5  # doubled each time, with some chance in it; Retry-After goes first
TIMEOUT_S = 60  # of one answer; nova takes long under load
# nova: tags at creation need 2.52; flavors' properties in a server come with 2.47
COMPUTE_VERSION = "2.72"


def connect(cloud: str, parallel: int) -> Connection:
    """Return a connection to entry `cloud` of clouds.yaml, for `parallel` calls at a time. Raises `CloudError`."""
    import openstack
    from openstack.config import OpenStackConfig

    # what they warn of comes as an error, too, where it matters
    for library in ("keystoneauth", "openstack", "urllib3"):
        logging.getLogger(library).addHandler(logging.NullHandler())
    _check_files()
    try:
        with explained():
            region = OpenStackConfig().get_one(cloud=cloud, app_name="clearml-testbed")
            connection = openstack.connection.Connection(config=region)
            session = connection.session
            session.timeout = session.timeout or TIMEOUT_S

            # at the beginning a wrong address is likelier than one that comes back
            _retry(connection, parallel, again=1)
            session.get_token()  # not connection.authorize(), which hides what was wrong
            connection.compute.default_microversion = COMPUTE_VERSION
    except OSError as error:  # as requests says that a file of certificates is not there
        raise CloudError(str(error), "Check `cacert`, `cert` and `key` of this entry in clouds.yaml.") from None
    return connection


def _check_files() -> None:
    """Raise `CloudError` for a clouds.yaml that cannot be read, or is no YAML; the SDK leaves such files out."""
    from openstack.config import loader

    named = os.environ.get("OS_CLIENT_CONFIG_FILE")
    for path in map(Path, [named] if named else loader.CONFIG_FILES):
        try:
            yaml.safe_load(path.read_bytes())
        except (FileNotFoundError, IsADirectoryError):
            continue
        except OSError as error:
            raise CloudError(f"{path}: cannot be read: {error.strerror}", "Mend its owner or mode.") from None
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f"{path}:{mark.line + 1}" if mark else str(path)
            said = getattr(error, "problem", None) or "it is no text"
            raise CloudError(f"{where}: bad YAML: {said}", "Check indentation, tabs and quotes.") from None


def has_volumes(connection: Connection) -> bool:
    """Whether the cloud has cinder, by its catalogue; the SDK's `has_service` knows what clouds.yaml says, no more."""
    with explained():
        return connection.endpoint_for("block-storage") is not None


def be_patient(connection: Connection, parallel: int) -> None:
    """Wait for an endpoint where nobody listens, too: the cloud was there when the work began."""
    _retry(connection, parallel, again=RETRIES)


def _retry(connection: Connection, parallel: int, again: int) -> None:
    requests = connection.session.session
    for prefix in ("http://", "https://"):
        requests.mount(prefix, _patience(parallel, again))
    if auth_url := connection.config.get_auth_args().get("auth_url"):
        # a second token does no harm, and the toolkit asks keystone to change nothing
        requests.mount(auth_url, _patience(parallel, again, allowed_methods=None))


def _patience(parallel: int, again: int, **more: Any) -> HTTPAdapter:
    """Return what sends requests and repeats them, `again` times where nobody listens; `more`: urllib3's."""
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    class Patience(Retry):
        def is_retry(self, method: str, status_code: int, has_retry_after: bool = False) -> bool:
            passing = REFUSED if method == "POST" and self.allowed_methods is not None else PASSING
            return bool(self.total) and status_code in passing

    retry = Patience(
        total=RETRIES,
        connect=again,
        read=READ_RETRIES,
        other=0,  # such as a certificate that does not verify
        backoff_factor=BACKOFF_S,
        backoff_jitter=BACKOFF_S,
        raise_on_status=False,
        **more,
    )
    return HTTPAdapter(max_retries=retry, pool_connections=parallel, pool_maxsize=parallel)


def checked(response: Any) -> Any:
    """Return the answer to a call of a path, whose errors the SDK leaves to the caller."""
    from openstack.exceptions import raise_from_response

    raise_from_response(response)
    return response


@contextmanager
def explained(doing: str = "") -> Iterator[None]:
    """Turn the SDK's errors into `CloudError`s; `doing`: what was tried."""
    from keystoneauth1 import exceptions as auth
    from openstack import exceptions as sdk
    from requests import RequestException

    try:
        yield
    except (sdk.SDKException, auth.ClientException, RequestException) as error:
        raise explain(error, doing) from error


def explain(error: Exception, doing: str = "") -> CloudError:
    """Return what an error of the SDK means, and what to do."""
    from keystoneauth1 import exceptions as auth
    from openstack import exceptions as sdk

    said = _said(error)
    # who cannot be reached is the same whatever was tried
    what = f"{doing}: {said}" if doing and not isinstance(error, auth.ConnectionError | auth.EndpointNotFound) else said
    match error:
        case sdk.ConfigException():
            return CloudError(
                what, "Name an entry of clouds.yaml in openstack.cloud; OS_CLIENT_CONFIG_FILE says which file."
            )
        case auth.Unauthorized() | auth.MissingRequiredOptions() | auth.NoMatchingPlugin():
            return CloudError(what, "Check user, password or application credential of this entry in clouds.yaml.")
        case auth.NotFound():  # keystone's answer to a token that has ended, or that never was
            return CloudError(what, "Put a new token into this entry of clouds.yaml, if it has one; check auth_url.")
        case auth.SSLError():
            return CloudError(
                what, "Name the cloud's CA in `cacert` of this entry in clouds.yaml; the check stays switched on."
            )
        case auth.EndpointNotFound():
            return CloudError(what, "Check region_name and interface of this entry in clouds.yaml.")
        case auth.ConnectFailure() | auth.ConnectTimeout() | auth.UnknownConnectionError() | auth.DiscoveryFailure():
            return LostError(what, "Check auth_url in clouds.yaml and the way there; run the same command again.")
        # neutron's full quota is a conflict, cinder's too large a request
        case sdk.HttpException(status_code=409 | 413) if "quota" in said.lower():
            return CloudError(what, "Ask for a larger quota in the project, or make the testbed smaller.")
        case sdk.HttpException(status_code=500 | 502 | 504):
            return LostError(what, "Run the same command again; what is done already stays done.")
        case sdk.ForbiddenException() | auth.Forbidden():
            remedy = "Ask for a larger quota, or for this right, in the project."
            return CloudError(what, remedy)
        case _:
            return CloudError(what, "Run the same command again; what is done already stays done.")


def _said(error: Exception) -> str:
    """Return the cloud's own words, in one line; where it did not answer, which address and why."""
    from keystoneauth1.exceptions import ConnectionError as Unreached

    if isinstance(error, Unreached) and (where := re.search(r"https?://[^/\s'\"]+", str(error))):
        why = re.findall(r"\[Errno -?\d+\] ([^'\")>]+)|(certificate verify failed[^'\"()]*)|([Tt]imed out)", str(error))
        return f"no connection to {where[0]}" + (f": {''.join(why[-1]).strip()}" if why else "")
    details: Any = getattr(error, "details", None)
    text = str(details or getattr(error, "message", None) or error)
    return " ".join(text.split())[:500]
