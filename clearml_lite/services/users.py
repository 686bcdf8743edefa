"""users.*"""

from typing import Any

from clearml_lite.auth import COMPANY, COMPANY_NAME, delete_user
from clearml_lite.dispatch import Call, endpoint, object_schema
from clearml_lite.errors import invalid_id
from clearml_lite.query import Query, compile_filters, find
from clearml_lite.services.auth import ADMINISTRATION
from clearml_lite.storage import Document

_LIST: dict[str, Any] = {"type": ["array", "null"], "items": {"type": "string"}}
_GET_ALL = {
    "type": "object",
    "properties": {
        "id": _LIST, "name": {"type": ["string", "null"]}, "role": _LIST, "only_fields": _LIST, "order_by": _LIST,
        "page": {"type": ["integer", "null"], "minimum": 0}, "page_size": {"type": ["integer", "null"], "minimum": 1},
    },
}  # fmt: skip


@endpoint("users.get_current_user", schema={"type": "object"})
def get_current_user(call: Call) -> Document:
    """The caller."""
    identity = call.identity
    user = call.transaction.get("users", identity.user) or {
        "id": identity.user,
        "name": identity.name,
        "role": identity.role,
    }
    return {"user": _shown(user), "getting_started": None, "settings": {"max_download_items": 1000}}


@endpoint("users.get_all", schema=_GET_ALL)
def get_all(call: Call) -> Document:
    """Users by name, ID and role."""
    users, _ = find(call.transaction, "users", call.data, _query(call))
    return {"users": [{key: value for key, value in user.items() if key != "fixed"} for user in users]}


@endpoint("users.get_all_ex", schema=_GET_ALL)
def get_all_ex(call: Call) -> Document:
    """As get_all, with the company written out."""
    users, _ = find(call.transaction, "users", call.data, _query(call))
    return {"users": [_shown(user) for user in users]}


@endpoint("users.delete", writes=True, roles=(*ADMINISTRATION, "admin"), schema=object_schema({"user": "string"}))
def delete(call: Call) -> Document:
    """Removes a user; keys and tokens end at once. One of the configuration file is back after the next start."""
    if call.transaction.get("users", call.data["user"]) is None:
        raise invalid_id(300, "user", call.data["user"], COMPANY)
    delete_user(call.transaction, call.data["user"])
    return {}


def _query(call: Call) -> Query:
    return compile_filters(call.data, list(_GET_ALL["properties"]))


def _shown(user: Document) -> Document:
    shown = {key: value for key, value in user.items() if key != "fixed"}
    if "company" in user or "role" in user:
        shown["company"] = {"id": COMPANY, "name": COMPANY_NAME}
    return shown
