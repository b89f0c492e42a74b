"""``emomm``: the command line's parser, and what is said where a command cannot be carried out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from importlib import import_module

from emomm_study.command import options
from emomm_study.command.outcome import Outcome, Refused, plain_json
from emomm_study.paths import PlaceError, plain

CANNOT = 2
"""Status of a command that the user can mend, as of argparse's own."""


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; nothing that takes time is imported for it."""
    top = argparse.ArgumentParser(
        prog="emomm",
        description="The EmoMM companion from a shell. Each command has a --help with examples.",
        epilog=options.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for add in options.COMMANDS:
        add(commands)
    return top


def carried_out(given: argparse.Namespace) -> Outcome:
    """What a parsed command line comes to; raises ``Refused`` for what the user can mend."""
    module, _, name = given.function.partition(":")
    try:
        function = getattr(import_module(f"emomm_study.command.{module}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("emomm_"):
            raise
        raise Refused(
            f"the package {error.name} is not installed; the commands need the extra study: "
            "pip install -e '.[study]' in the project, or ./run_all.sh, which makes an environment"
        ) from error
    return function(given)


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out a command line.

    0 where that went well, 1 where a check says no, 2 with a sentence on stderr for what the user
    can mend, 130 on Ctrl-C. With ``--json`` an object, and nothing else, is printed on stdout.
    """
    given = parser().parse_args(argv)
    try:
        with redirect_stdout(sys.stderr) if given.json else nullcontext():
            outcome = carried_out(given)
    except (Refused, PlaceError) as error:
        print(plain(str(error)), file=sys.stderr)
        return CANNOT
    except KeyboardInterrupt as error:
        notes = getattr(error, "__notes__", [])
        print("\n".join(["\nInterrupted.", *notes]), file=sys.stderr)
        return 130
    if given.json:
        print(json.dumps(plain_json(outcome.found), allow_nan=False))
    elif outcome.text:
        print(plain(outcome.text))
    return outcome.status


if __name__ == "__main__":
    sys.exit(main())
