"""What tests of all kinds share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROLES = Path(__file__).parents[1] / "roles"


@pytest.fixture(scope="session")
def render_role() -> Callable[..., str]:
    """A function that renders a role's template with its defaults and vars, as Ansible does, and other variables."""
    from ansible.parsing.dataloader import DataLoader
    from ansible.template import Templar, trust_as_template

    def trusted(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: trusted(each) for key, each in value.items()}
        if isinstance(value, list):
            return [trusted(each) for each in value]
        return trust_as_template(value) if isinstance(value, str) else value

    def render(role: str, template: str, **variables: Any) -> str:
        found: dict[str, Any] = {}
        for name in ("defaults", "vars"):
            file = ROLES / role / name / "main.yml"
            found |= yaml.safe_load(file.read_text()) if file.exists() else {}
        text = (ROLES / role / "templates" / template).read_text()
        return str(Templar(loader=DataLoader(), variables=trusted(found | variables)).template(trust_as_template(text)))

    return render
