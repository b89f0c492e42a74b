"""``python -m benchmarks``: run the benchmarks and write the page of results."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

BENCHMARKS = ("recording", "coalitions", "store", "steering")
PAGE = Path(__file__).with_name("results.md")


def main(argv: list[str] | None = None) -> str:
    """Run what the arguments ask for; returns the page, printed and perhaps written."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=BENCHMARKS, metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="smallest sizes: does it still run?")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="where the page goes; benchmarks/results.md for a full run, nowhere with --quick or "
        "--only, which would replace that page by less",
    )
    given = parser.parse_args(argv)
    # Here, not above: processes that these modules spawn import this file first.
    measure = import_module("benchmarks.measure")
    try:
        machine = measure.machine(given.device)
    except ValueError as error:
        parser.error(str(error))
    tables = []
    for name in (given.only,) if given.only else BENCHMARKS:
        made = import_module(f"benchmarks.{name}").tables(device=given.device, quick=given.quick)
        for table in made:
            print(table.markdown(), flush=True)
            tables.append(table)
    page = measure.page(machine, tables, quick=given.quick)
    out = given.out or (None if given.quick or given.only else PAGE)
    if out:
        out.write_text(page, encoding="utf-8")
    return page


if __name__ == "__main__":
    main()
