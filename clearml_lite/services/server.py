"""server.*"""

from clearml_lite.auth import API_VERSION, SERVER_BUILD, SERVER_VERSION
from clearml_lite.dispatch import ENDPOINTS, Call, endpoint
from clearml_lite.storage import Document


@endpoint("server.info", schema={"type": "object"})
def info(call: Call) -> Document:
    """Versions: of the official server whose API this is, and of this server as its build."""
    return {"version": SERVER_VERSION, "build": SERVER_BUILD, "commit": "", "api_version": API_VERSION}


@endpoint("server.config", roles=("root", "system"), schema={"type": "object"})
def config(call: Call) -> Document:
    """The configuration without its secrets."""
    settings = call.config
    return {
        "apiserver": {
            "listen": {"ip": settings.bind, "port": settings.api_port},
            "auth": {
                "fixed_users": {
                    "enabled": True,
                    "pass_hashed": True,
                    "users": [user.username for user in settings.users],
                }
            },
        },
        "hosts": {"api": settings.urls.api, "web": settings.urls.web, "files": settings.urls.files},
    }


@endpoint("server.endpoints", roles=("root", "system"), schema={"type": "object"})
def endpoints(call: Call) -> Document:
    """The endpoints that this server has."""
    return {"endpoints": sorted(ENDPOINTS)}


@endpoint("server.report_stats_option", schema={"type": "object"})
def report_stats_option(call: Call) -> Document:
    """This server tells nobody how it is used, and cannot be told to."""
    return {"supported": False, "enabled": False}
