"""After the last cell of a rerun notebook: its estimated values beside the committed ones."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from emomm_study.report.values import (
    Compared,
    committed,
    compare_notebooks,
    recorded,
)
from emomm_study.run.pairing import declared_parameters, read_source

STARTED = pytest.StashKey[set[Path]]()
FOUND = pytest.StashKey[list[Compared]]()


class Outside(Exception):
    """Values that a rerun found elsewhere than committed; the text is the whole report."""


class EstimatedValues(pytest.Item):
    """Fails where a value lies outside its tolerance, or was not recorded by this rerun."""

    def runtest(self) -> None:
        profile = _profile(self.path)
        new = recorded(profile)
        file = new / f"{self.path.stem}.csv"
        if not file.is_file():
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
    config.stash[STARTED], config.stash[FOUND] = set(), []


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before a notebook's first cell: forget what an earlier run of it recorded."""
    if item.path.suffix == ".ipynb" and item.path not in item.config.stash[STARTED]:
        item.config.stash[STARTED].add(item.path)
        (recorded(_profile(item.path)) / f"{item.path.stem}.csv").unlink(missing_ok=True)


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
        tables = [compared.table for compared in found]
        everything = Compared(pd.concat(tables, ignore_index=True))
        terminalreporter.section("estimated values")
        terminalreporter.write_line(everything.by_notebook().round(3).to_string())
        terminalreporter.write_line(everything.sentence())
