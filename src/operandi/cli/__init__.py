"""The command line. Each command imports what it needs when it runs, so that ``operandi --help`` answers at once."""

import sys
import traceback
from collections.abc import Sequence

from operandi.cli import experiments, figures, measurements, service  # noqa: F401 - their commands join the application
from operandi.cli.application import app, options
from operandi.errors import OperandiError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error that has a remedy becomes one message and exit code 1. None takes the process's arguments."""
    try:
        app(arguments)
    except OperandiError as error:
        if options["debug"]:
            traceback.print_exc()
        else:
            lines = str(error).splitlines()
            print("operandi:" if len(lines) > 1 else "operandi: ", *lines, sep="\n" if len(lines) > 1 else "", file=sys.stderr)
        sys.exit(1)
