"""organization.*"""

from clearml_lite.dispatch import Call, endpoint
from clearml_lite.query import Query
from clearml_lite.services.entities import tags_of
from clearml_lite.storage import Document


@endpoint("organization.get_tags")
def get_tags(call: Call) -> Document:
    """The tags of all tasks and models."""
    return tags_of(call, ["tasks", "models"], Query())
