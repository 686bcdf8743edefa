"""login.*"""

from clearml_lite.dispatch import Call, endpoint
from clearml_lite.storage import Document


@endpoint("login.supported_modes", anonymous=True, schema={"type": "object"})
def supported_modes(call: Call) -> Document:
    """How one can log in: with a user name and a password of the configuration file."""
    return {
        "basic": {"enabled": True, "guest": {"enabled": False}},
        "sso": {},
        "sso_providers": [],
        "server_errors": {"missed_es_upgrade": False, "es_connection_error": False},
    }
