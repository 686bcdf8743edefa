"""What goes onto hosts is built from the checkout, without network, to equal bytes."""

from __future__ import annotations

import zipfile

import pytest

from provision import wheels


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return wheels.build(tmp_path_factory.mktemp("wheels"))


def test_equal_sources_give_equal_bytes(built, tmp_path):
    again = wheels.build(tmp_path)
    assert again.lite.read_bytes() == built.lite.read_bytes()
    assert again.workload.read_bytes() == built.workload.read_bytes()


@pytest.mark.parametrize(
    ("wheel", "member"),
    [
        ("lite", "clearml_lite/cli.py"),
        ("lite", "clearml_lite/schemas.json"),
        ("lite", "clearml_lite/web/pages.py"),
        ("lite", "clearml_lite/web/static/charts.js"),
        ("lite", "clearml_lite/web/templates/base.html"),
        ("workload", "workload/__init__.py"),
    ],
)
def test_the_package_is_in_its_wheel(built, wheel, member):
    assert member in zipfile.ZipFile(getattr(built, wheel)).namelist()
