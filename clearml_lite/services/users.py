"""users.*"""

from typing import Any

from clearml_lite.auth import COMPANY, COMPANY_NAME, delete_user
from clearml_lite.dispatch import Call, endpoint, object_schema
from clearml_lite.errors import ApiError, invalid_id
from clearml_lite.query import Query, compile_filters, find
from clearml_lite.services.auth import ADMINISTRATION
from clearml_lite.services.entities import given
from clearml_lite.storage import Document

_PREFERENCES = "preferences"
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
    return {"users": [_without_internals(user) for user in users]}


@endpoint("users.get_all_ex", schema=_GET_ALL)
def get_all_ex(call: Call) -> Document:
    """As get_all, with the company written out."""
    users, _ = find(call.transaction, "users", call.data, _query(call))
    return {"users": [_shown(user) for user in users]}


@endpoint("users.get_by_id", schema=object_schema({"user": "string"}))
def get_by_id(call: Call) -> Document:
    """A user."""
    return {"user": _without_internals(_require(call, call.data["user"]))}


@endpoint("users.get_preferences", schema={"type": "object"})
def get_preferences(call: Call) -> Document:
    """What the caller has stored as preferences."""
    return {"preferences": (call.transaction.get("users", call.identity.user) or {}).get(_PREFERENCES, {})}


@endpoint("users.set_preferences", writes=True, schema=object_schema({"preferences": "object"}))
def set_preferences(call: Call) -> Document:
    """Stores preferences of the caller; those with the same name are replaced."""
    user = _require(call, call.identity.user)
    preferences = user.get(_PREFERENCES, {}) | call.data["preferences"]
    call.transaction.put("users", user | {_PREFERENCES: preferences})
    return {"updated": 1, "fields": {"preferences": call.data["preferences"]}}


@endpoint(
    "users.update",
    writes=True,
    schema=object_schema({"user": "string"}, {"name": "string", "given_name": "string", "family_name": "string"}),
)
def update(call: Call) -> Document:
    """Changes a name; one's own, or by an administrator. A name of the configuration file is back after a restart."""
    if call.data["user"] != call.identity.user and call.identity.role not in (*ADMINISTRATION, "admin"):
        raise ApiError(
            403, 20, "Forbidden (another user can be changed by an administrator only)", user=call.data["user"]
        )
    user = _require(call, call.data["user"])
    fields = given(call.data, ("name", "given_name", "family_name"))
    call.transaction.put("users", user | fields)
    return {"updated": int(bool(fields)), "fields": fields}


@endpoint("users.delete", writes=True, roles=(*ADMINISTRATION, "admin"), schema=object_schema({"user": "string"}))
def delete(call: Call) -> Document:
    """Removes a user; keys and tokens end at once. One of the configuration file is back after the next start."""
    _require(call, call.data["user"])
    delete_user(call.transaction, call.data["user"])
    return {}


def _query(call: Call) -> Query:
    return compile_filters(call.data, list(_GET_ALL["properties"]))


def _require(call: Call, identifier: str) -> Document:
    user = call.transaction.get("users", identifier)
    if user is None:
        raise invalid_id(300, "user", identifier, COMPANY)
    return user


def _without_internals(user: Document) -> Document:
    return {key: value for key, value in user.items() if key not in ("fixed", _PREFERENCES)}


def _shown(user: Document) -> Document:
    shown = _without_internals(user)
    if "company" in user or "role" in user:
        shown["company"] = {"id": COMPANY, "name": COMPANY_NAME}
    return shown
