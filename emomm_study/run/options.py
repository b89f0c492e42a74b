"""Options of a run: those of ``./run_all.sh``, and of ``emomm run``."""

from __future__ import annotations

import argparse

from emomm_study.report.formats import DEFAULT


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """What is run, and how."""
    parser.add_argument("--profile", default="mini", metavar="NAME", help="default: %(default)s")
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--from", dest="start", metavar="NN", help="start at notebook NN")
    part.add_argument("--only", metavar="NN", help="run notebook NN alone")
    parser.add_argument(
        "--clips",
        type=int,
        metavar="N",
        help="from notebook 03 on, ask about a stratified part of N clips alone",
    )
    parser.add_argument("--refresh", action="store_true", help="rewrite the committed notebooks")
    parser.add_argument(
        "--formats", metavar="LIST", help=f"of figures: png, svg, pdf (default: {DEFAULT})"
    )
