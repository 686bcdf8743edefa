"""The verbs of the toolkit itself: init, test, version, completion."""

from __future__ import annotations

from pathlib import Path

import click

from provision.cli.group import json_option, main


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
    """Run the project's own tests.

    Lint, types, unit and integration tests, and the checks of this machine's testbed.

    Other arguments go to pytest and choose its tests, such as `testbed test tests/unit -k spec`.
    """
    from provision import selftest

    raise SystemExit(selftest.run(list(pytest_arguments), lab=lab, full=full))


@main.command()
@json_option
def version(as_json: bool) -> None:
    """Print the toolkit's version."""
    from provision import version as versions

    if not as_json:
        click.echo(f"testbed {versions.current()}")
        return
    import platform
    from importlib.metadata import version as of

    from provision.cli.output import show_json
    from provision.paths import ROOT
    from provision.reports import VersionReport

    python, ansible_core = platform.python_version(), of("ansible-core")
    show_json(VersionReport(version=versions.current(), python=python, ansible_core=ansible_core, data=str(ROOT)))


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that completes verbs, options and files in your shell.

    \b
    bash:  source <(testbed completion bash)              in ~/.bashrc
    zsh:   source <(testbed completion zsh)               in ~/.zshrc, after compinit
    fish:  testbed completion fish | source               in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None  # noqa: S101  (the choice above has click's own shells)
    click.echo(found(main, {}, "testbed", "_TESTBED_COMPLETE").source())
