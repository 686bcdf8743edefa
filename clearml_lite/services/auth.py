"""auth.*: tokens, users, credentials."""

import uuid

from clearml_lite.auth import COMPANY, new_key_pair, new_user, of_document, secret_hash
from clearml_lite.dispatch import Call, endpoint, object_schema
from clearml_lite.errors import ApiError, invalid_id
from clearml_lite.query import now
from clearml_lite.storage import Document

ADMINISTRATION = ("system", "root")


@endpoint("auth.fixed_users_mode", anonymous=True, schema={"type": "object"})
def fixed_users_mode(call: Call) -> Document:
    """Users come from the configuration file, always."""
    return {"enabled": True, "guest": {"enabled": False}, "server_errors": {}}


@endpoint("auth.login")
def login(call: Call) -> Document:
    """A token for whoever has shown valid credentials (or a token that still lives)."""
    token, life = call.authenticator.issue_token(call.identity, call.data.get("expiration_sec"))
    call.cookie = (token, life)
    return {"token": token}


@endpoint("auth.logout", writes=True, schema={"type": "object"})
def logout(call: Call) -> Document:
    """Ends the session of the caller's token."""
    call.authenticator.revoke_session(call.transaction, call.identity)
    call.cookie = ("", 0)
    return {}


@endpoint("auth.validate_token", roles=ADMINISTRATION, schema=object_schema({"token": "string"}))
def validate_token(call: Call) -> Document:
    """Whom a token stands for, if it is valid."""
    try:
        identity = call.authenticator.verified(call.transaction, call.data["token"])
    except ApiError as error:
        return {"valid": False, "msg": str(error).rpartition("reason=")[2]}
    return {"valid": True, "user": identity.user, "company": COMPANY}


@endpoint(
    "auth.get_token_for_user",
    roles=ADMINISTRATION,
    schema=object_schema({"user": "string"}, {"expiration_sec": "integer"}),
)
def get_token_for_user(call: Call) -> Document:
    """A token that stands for another user."""
    user = call.transaction.get("users", call.data["user"])
    if user is None:
        raise invalid_id(300, "user", call.data["user"], COMPANY)
    token, _ = call.authenticator.issue_token(of_document(user), call.data.get("expiration_sec"))
    return {"token": token}


@endpoint(
    "auth.create_user",
    writes=True,
    roles=ADMINISTRATION,
    schema=object_schema({"name": "string", "email": "string", "company": "string"}, {"role": "string"}),
)
def create_user(call: Call) -> Document:
    """A user beside those of the configuration file; can log in with keys only."""
    user = new_user(uuid.uuid4().hex, call.data["name"], call.data.get("role") or "user", email=call.data["email"])
    call.transaction.put("users", user)
    return {"id": user["id"]}


@endpoint("auth.edit_user", writes=True, roles=(*ADMINISTRATION, "admin"))
def edit_user(call: Call) -> Document:
    """Changes a user's role."""
    user = call.transaction.get("users", call.data.get("user") or "")
    if user is None:
        raise invalid_id(300, "user", call.data.get("user"), COMPANY)
    fields = {"role": call.data["role"]} if call.data.get("role") else {}
    call.transaction.put("users", user | fields)
    return {"updated": int(bool(fields)), "fields": fields}


@endpoint("auth.create_credentials", writes=True)
def create_credentials(call: Call) -> Document:
    """A key pair for the caller; the only time that its secret is shown."""
    if call.identity.internal:
        raise ApiError(400, 301, "Invalid user id (protected identity)")
    access_key, secret = new_key_pair()
    label = call.data.get("label")
    call.transaction.execute(
        "INSERT INTO credentials (access_key, user, secret_hash, label, created) VALUES (?, ?, ?, ?, ?)",
        (access_key, call.identity.user, secret_hash(secret), label, now()),
    )
    labelled = {"label": label} if label else {}
    return {"credentials": {"access_key": access_key, "secret_key": secret} | labelled}


@endpoint("auth.get_credentials")
def get_credentials(call: Call) -> Document:
    """The caller's keys, without secrets."""
    rows = call.transaction.execute(
        "SELECT access_key, label, last_used, last_used_from FROM credentials WHERE user = ? ORDER BY rowid",
        (call.identity.user,),
    )
    names = ("access_key", "label", "last_used", "last_used_from")
    return {"credentials": [{name: value for name, value in zip(names, row, strict=True) if value} for row in rows]}


@endpoint("auth.edit_credentials", writes=True)
def edit_credentials(call: Call) -> Document:
    """Labels one of the caller's keys anew."""
    key = call.data["access_key"]
    changed = call.transaction.execute(
        "UPDATE credentials SET label = ? WHERE access_key = ? AND user = ?",
        (call.data.get("label"), key, call.identity.user),
    )
    if not changed.rowcount:
        message = "Access key not found (invalid user or invalid access key)"
        raise ApiError(400, 75, message, user=call.identity.user, access_key=key, company=COMPANY)
    return {"updated": 1}


@endpoint("auth.revoke_credentials", writes=True)
def revoke_credentials(call: Call) -> Document:
    """Ends one of the caller's keys, and at once every token that it was exchanged for."""
    key = call.data["access_key"]
    changed = call.transaction.execute(
        "DELETE FROM credentials WHERE access_key = ? AND user = ?", (key, call.identity.user)
    )
    if not changed.rowcount:
        message = "Invalid user (invalid user or invalid access key)"
        raise ApiError(400, 300, message, id=call.identity.user, company=COMPANY, credentials__key=key)
    return {"revoked": 1}
