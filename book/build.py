"""Builds the book: stages the sources, then has Sphinx make a static site of them.

usage: python -m book.build [folder]
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from sphinx.cmd.build import main as sphinx

from book import launch
from book.staging import stage
from emomm_study.paths import plain, writable

HERE = Path(__file__).resolve().parent
SITE = HERE / "site"
MARK = ".buildinfo"
"""What Sphinx leaves in a folder that it has filled."""


class BookError(RuntimeError):
    """One sentence that says why there is no book."""


def prepared(site: Path) -> Path:
    """An empty folder for the site; an earlier book in it is removed.

    Raises :class:`BookError` for a folder that cannot be written to, or that holds anything else.
    """
    if not writable(site):
        raise BookError(f"{plain(site)}: this folder cannot be written to; name another one")
    if site.is_dir() and any(site.iterdir()):
        if not (site / MARK).is_file():
            raise BookError(
                f"{plain(site)}: this folder holds something that is no book; name an empty or a new one"
            )
        shutil.rmtree(site)
    return site


def build(site: Path) -> int:
    """Make the site; returns Sphinx's exit status, which is not 0 after any warning."""
    prepared(site)
    with tempfile.TemporaryDirectory() as folder:
        source, trees = Path(folder) / "source", Path(folder) / "trees"
        stage(source, launch.repository())
        options = [
            "-b",
            "html",
            "-W",
            "--keep-going",
            "-q",
            "-j",
            "auto",
            "-c",
            str(HERE),
            "-d",
            str(trees),
        ]
        return sphinx([*options, str(source), str(site)])


def main() -> int:
    parser = argparse.ArgumentParser(prog="build_book.sh", description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=SITE, help="by default book/site")
    site = parser.parse_args().folder.absolute()
    try:
        status = build(site)
    except (BookError, launch.AddressError) as error:
        print(error, file=sys.stderr)
        return 1
    if not status:
        print(f"The book is made; open {plain(site / 'index.html')}")
    return status


if __name__ == "__main__":
    sys.exit(main())
