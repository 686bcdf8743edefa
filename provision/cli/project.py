"""The verbs of the toolkit itself: init, test, version."""

from __future__ import annotations

from pathlib import Path

import click

from provision import __version__
from provision.cli.group import main


@main.command()
@click.option(
    "--spec",
    type=click.Path(path_type=Path),
    default=Path("testbed.yaml"),
    show_default=True,
    help="The file to write.",
)
def init(spec: Path) -> None:
    """Write a commented testbed.yaml."""
    from provision import spec as specs

    specs.write_example(spec)
    click.echo(f"Wrote {spec}. Edit it, then: testbed up" + ("" if spec == Path("testbed.yaml") else f" --spec {spec}"))


@main.command(context_settings={"ignore_unknown_options": True})
@click.option("--lab", is_flag=True, help="And what takes long, and what needs hosts in containers.")
@click.option("--full", is_flag=True, help="With --lab: campaigns without sampling.")
@click.argument("pytest_arguments", nargs=-1, type=click.UNPROCESSED)
def test(pytest_arguments: tuple[str, ...], lab: bool, full: bool) -> None:
    """Run the project's own tests: lint, types, unit and integration tests, and the checks of this machine's testbed.

    Other arguments go to pytest and choose its tests, such as `testbed test tests/unit -k spec`.
    """
    from provision import selftest

    raise SystemExit(selftest.run(list(pytest_arguments), lab=lab, full=full))


@main.command()
def version() -> None:
    """Print the toolkit's version."""
    click.echo(f"testbed {__version__}")
