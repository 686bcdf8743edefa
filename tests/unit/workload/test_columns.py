"""Which columns are read, and what cannot be."""

import pytest
from workload.columns import Column, choose
from workload.errors import SourceError

FIELDS = [("rsrp", "float"), ("cqi", "integer"), ("up", "boolean")]
TAGS = ["ue", "cell"]


def test_all_fields_and_tags_come_by_name():
    assert choose(FIELDS, TAGS) == [
        Column("cell", "tag"),
        Column("cqi", "integer"),
        Column("rsrp", "float"),
        Column("ue", "tag"),
        Column("up", "boolean"),
    ]


def test_what_is_asked_for_comes_alone():
    assert choose(FIELDS, TAGS, ["cqi", "cqi"], []) == [Column("cqi", "integer")]


def test_a_name_is_quoted_and_said_to_be_a_field_or_a_tag():
    assert Column('a "b\\', "float").query == '"a \\"b\\\\"::field'
    assert Column("cell", "tag").query == '"cell"::tag'


@pytest.mark.parametrize(
    ("fields", "tags", "only", "message"),
    [
        (FIELDS, TAGS, (["rsrq"], None), r"no field 'rsrq' \(there is: cqi, rsrp, up\): check --fields"),
        (FIELDS, TAGS, (None, ["gnb"]), r"no tag 'gnb' \(there is: cell, ue\): check --tags"),
        (FIELDS, [], (None, ["gnb"]), "there is: none"),
        (FIELDS, TAGS, ([], None), "name at least one in --fields"),
        ([*FIELDS, ("cqi", "string")], TAGS, (None, None), "'cqi' is integer in some points and string in others"),
        ([("a", "complex")], TAGS, (None, None), "unknown type 'complex'"),
        ([("ue", "float")], TAGS, (None, None), "'ue' is a field and a tag"),
    ],
)
def test_what_cannot_be_read_is_named_with_the_setting(fields, tags, only, message):
    with pytest.raises(SourceError, match=message):
        choose(fields, tags, *only)


def test_what_is_left_out_may_be_of_two_types_or_a_tag_too():
    assert choose([*FIELDS, ("cqi", "string")], TAGS, ["rsrp"], []) == [Column("rsrp", "float")]
    assert choose([("ue", "float")], TAGS, ["ue"], ["cell"]) == [Column("cell", "tag"), Column("ue", "float")]
