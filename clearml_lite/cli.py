"""The command `clearml-lite`."""

import argparse
import logging
import os
import sys
from pathlib import Path

from clearml_lite import __version__
from clearml_lite.config import load
from clearml_lite.errors import ConfigError


def main() -> int:
    """Runs the command; 0 after a clean stop, 2 when the configuration cannot be used."""
    parser = argparse.ArgumentParser(
        prog="clearml-lite", description="An embedded server for the ClearML SDK and agent."
    )
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    serve_verb = verbs.add_parser("serve", help="serve the API, the files and the web page until SIGTERM")
    serve_verb.add_argument("--config", type=Path, required=True, metavar="FILE", help="configuration, YAML")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    os.umask(0o077)  # all that it writes is its own
    try:
        config = load(arguments.config)
        from clearml_lite.server import serve  # after the configuration, so that a wrong one is told at once

        serve(config)
    except ConfigError as error:
        print(f"clearml-lite: {error}", file=sys.stderr)
        return 2
    return 0
