"""After the last cell of a rerun notebook: its estimated values beside the committed ones."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
import pytest

from emomm_lib.pairing import declared_parameters, read_source
from emomm_lib.report.values import (
    Compared,
    committed,
    compare_notebooks,
    recorded,
)

BEGAN = pytest.StashKey[float]()
FOUND = pytest.StashKey[list[Compared]]()


class Outside(Exception):
    """Values that a rerun found elsewhere than committed; the text is the whole report."""


class EstimatedValues(pytest.Item):
    """Fails where a value lies outside its tolerance, or was not recorded by this rerun."""

    def runtest(self) -> None:
        profile = _profile(self.path)
        new = recorded(profile)
        file = new / f"{self.path.stem}.csv"
        if not file.is_file() or file.stat().st_mtime < self.config.stash[BEGAN]:
            raise Outside(f"{self.path.stem} recorded no values in this run; see its failed cells")
        compared = compare_notebooks(committed(profile), new, [self.path.stem])
        self.config.stash[FOUND].append(compared)
        if len(compared.outside):
            raise Outside(compared.report())

    def repr_failure(self, excinfo: pytest.ExceptionInfo) -> str:
        if isinstance(excinfo.value, Outside):
            return str(excinfo.value)
        return str(super().repr_failure(excinfo))

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, f"{self.path.name}: estimated values"


def _profile(notebook: Path) -> str:
    source = notebook.with_suffix(".py")
    return str(declared_parameters(read_source(source), source.name)["profile"])


def pytest_configure(config: pytest.Config) -> None:
    config.stash[BEGAN], config.stash[FOUND] = time.time(), []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    last = {item.path: place for place, item in enumerate(items) if item.path.suffix == ".ipynb"}
    for path, place in sorted(last.items(), key=lambda pair: -pair[1]):
        if (committed(_profile(path)) / f"{path.stem}.csv").is_file():
            own = EstimatedValues.from_parent(items[place].parent, name="estimated values")
            items.insert(place + 1, own)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if found := config.stash[FOUND]:
        everything = Compared(pd.concat([compared.table for compared in found]))
        terminalreporter.section("estimated values")
        terminalreporter.write_line(everything.by_notebook().round(3).to_string())
        terminalreporter.write_line(everything.sentence())
