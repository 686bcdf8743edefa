"""To which version a server may go, and through which it must."""

from __future__ import annotations

import pytest

from provision import upgrade
from provision.upgrade import UpgradeError

KNOWN = ["1.17.0", "2.0.0", "2.3.0", "2.4.0"]


@pytest.mark.parametrize(
    ("current", "wanted"),
    [
        ("2.3.0", "2.4.0"),
        ("2.0.0", "2.4.0"),
        ("1.17.0", "2.0.0"),
        ("1.16.2", "1.17.0"),
        ("1.9.0", "1.17.0"),
        ("2.4.0", "2.4.0"),
    ],
)
def test_these_hops_are_legal(current, wanted):
    upgrade.check_hop(current, wanted, KNOWN)


@pytest.mark.parametrize(
    ("current", "wanted", "said"),
    [
        ("2.4.0", "2.3.0", "is older"),
        ("2.10.0", "2.9.0", "is older"),
        ("1.16.2", "2.4.0", "leads through 1.17"),
        ("1.9.0", "2.0.0", "leads through 1.17"),
        ("1.17.0", "2.4.0", "leads through 2.0"),
        ("1.17.1", "2.3.0", "leads through 2.0"),
        ("2.3.0", "2.5.0", "is not known here"),
    ],
)
def test_these_hops_are_refused_with_the_way(current, wanted, said):
    with pytest.raises(UpgradeError) as error:
        upgrade.check_hop(current, wanted, KNOWN)
    assert said in error.value.message
    assert error.value.remedy.endswith("nothing was changed.")


def test_the_versions_are_those_of_the_role():
    assert upgrade.known_versions() == ["2.3.0", "2.4.0"]
