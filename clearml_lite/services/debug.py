"""debug.*"""

from clearml_lite.dispatch import Call, endpoint
from clearml_lite.storage import Document


@endpoint("debug.ping", anonymous=True, schema={"type": "object"})
def ping(call: Call) -> Document:
    """Tells that the server answers."""
    return {"msg": "ClearML server"}
