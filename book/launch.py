"""Notebooks that set themselves up elsewhere (Colab, Binder), and links to them.

usage: python -m book.launch FOLDER

Fills an empty folder with every notebook, without results and with a first cell that brings the project,
its packages and what earlier notebooks make; and with the environment that Binder builds. Pushed as the
branch ``launch`` of the repository that ``pyproject.toml`` names, that is what the links open.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import nbformat

from emomm_study.paths import ROOT, plain
from emomm_study.run.pairing import read_source
from emomm_study.run.pipeline import BUILDS_ON, find_notebooks

BRANCH = "launch"
GITHUB = re.compile(r"https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?")
SETUP = """\
# Sets this notebook up: brings the project, its packages, and what it builds on.
import os
import subprocess
import sys
from pathlib import Path

here = Path.cwd()
project = here if (here / "run_all.sh").is_file() else here / "emomm-companion"
if not project.is_dir():
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", "{address}", str(project)], check=True)
os.chdir(project)
sys.path.insert(0, str(project))
os.environ["PYTHONPATH"] = str(project)
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
if subprocess.run([sys.executable, "scripts/check_pins.py"]).returncode:
    install = [sys.executable, "-m", "pip", "install", "--quiet", "-r", "requirements.lock"]
    subprocess.run(install, check=True)
    if {{"numpy", "pandas", "matplotlib", "torch"}} & set(sys.modules):
        raise SystemExit("Other versions are loaded: restart the kernel, then run this cell again.")
for number in {before!r}:
    subprocess.run(["bash", "run_all.sh", "--only", number], check=True)
print("Ready")
"""


class AddressError(ValueError):
    """One sentence that says what is wrong with the repository's address."""


def repository(root: Path = ROOT) -> str:
    """``[tool.emomm] repository`` of pyproject.toml; empty until the address is known.

    Raises :class:`AddressError` for what is no address of a repository on GitHub, where alone Colab
    and Binder look.
    """
    file = root / "pyproject.toml"
    found = tomllib.loads(file.read_text(encoding="utf-8"))["tool"]["emomm"]["repository"]
    if found:
        _named(found)
    return found


def _named(address: str) -> str:
    """``owner/name``."""
    if not (found := GITHUB.fullmatch(address)):
        raise AddressError(
            f"pyproject.toml: [tool.emomm] repository is https://github.com/<owner>/<name>, or empty; "
            f"got {address!r}"
        )
    return found[1]


def links(address: str, notebook: str) -> str:
    """Markdown that opens a notebook (``02_statistics``) on Colab and on Binder."""
    name = _named(address)
    colab = f"https://colab.research.google.com/github/{name}/blob/{BRANCH}/{notebook}.ipynb"
    binder = f"https://mybinder.org/v2/gh/{name}/{BRANCH}?urlpath=lab/tree/{notebook}.ipynb"
    return (
        f"Open it on [Colab]({colab}) or [Binder]({binder}). Its first cell sets it up, and computes what "
        "earlier notebooks hand on: minutes."
    )


def before(number: str) -> list[str]:
    """The notebooks that have to run before one (``"07"``), in their order."""
    needed, open_ = set(), [number]
    while open_:
        found = BUILDS_ON[open_.pop()]
        open_ += [other for other in found if other not in needed]
        needed |= set(found)
    return sorted(needed)


def setup_cell(address: str, number: str) -> str:
    """The first cell's code for a notebook; ``address`` is what ``git clone`` takes."""
    return SETUP.format(address=address, before=before(number))


def export(folder: Path, address: str) -> None:
    """Write the branch's files; ``address`` is the repository's."""
    folder.mkdir(parents=True, exist_ok=True)
    for source in find_notebooks():
        notebook = read_source(source)
        cell = nbformat.v4.new_code_cell(setup_cell(address, source.stem[:2]), id="setup")
        notebook.cells.insert(1, cell)
        nbformat.write(notebook, folder / f"{source.stem}.ipynb")
    lines = (ROOT / "environment.yml").read_text(encoding="utf-8").splitlines(keepends=True)
    # The first cell brings the project itself.
    kept = [line for line in lines if line.strip() != "- -e ."]
    (folder / "environment.yml").write_text("".join(kept), encoding="utf-8")


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(sys.argv[1])
    try:
        if not (address := repository()):
            raise AddressError(
                "pyproject.toml: [tool.emomm] repository is empty; set it to "
                "https://github.com/<owner>/<name>, from which the notebooks will fetch the project"
            )
    except AddressError as error:
        print(error, file=sys.stderr)
        return 1
    if folder.is_dir() and any(folder.iterdir()):
        print(f"{plain(folder)}: this folder is not empty; name a new one", file=sys.stderr)
        return 1
    export(folder, address)
    print(f"Push {plain(folder)} to {address} as the branch {BRANCH}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
