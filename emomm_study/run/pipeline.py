"""Runs the notebooks of a profile in order and sets what they found beside the published values.

``./run_all.sh --help`` makes the environment and calls this; ``python -m emomm_study.run.pipeline`` is
the same inside an environment. A notebook's source is ``notebooks/NN_name.py``; it runs as
``runs/<profile>/NN_name.ipynb`` and is never changed in place.
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import nbformat
import pandas as pd
import papermill
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

from emomm_study.environment import LEAST_FREE, check_places, in_gb, keep_jupyter_apart
from emomm_study.paths import (
    COMMITTED_FIGURES,
    FIGURES,
    OUTPUTS,
    ROOT,
    RUNS,
    UNWRITABLE,
    PlaceError,
    cache_root,
    plain,
    whole,
    writable,
)
from emomm_study.report import results
from emomm_study.report.comparison import comparison_path, read_comparisons
from emomm_study.report.formats import DEFAULT, VARIABLE, figure_formats
from emomm_study.report.values import (
    commit_notebook,
    committed,
    compare_files,
    compare_notebooks,
    recorded,
)
from emomm_study.run.options import add_run_options
from emomm_study.run.pairing import (
    PairError,
    committed_form,
    declared_parameters,
    read_source,
    section_of,
    write_committed,
)
from emomm_study.run.profiles import PipelineError, load_profile, preflight
from emomm_study.run.report import write_run_report
from emomm_study.run.turns import StepDied, in_turn

NOTEBOOKS = ROOT / "notebooks"
SETTINGS = ("cell_timeout", "jobs", "disk_gb", "disk_mb_a_clip")
"""Keys of a profile that are the pipeline's own and go to no notebook."""
BUILDS_ON = {
    "01": (),
    "02": ("01",),
    "03": ("01",),
    "04": ("03",),
    "05": ("03",),
    "06": ("03",),
    "07": ("06",),
    "08": ("07",),
    "09": ("07",),
    "10": (),
    "11": ("07",),
    "12": ("01",),
    "13": ("03",),
}
"""What a notebook finds in the caches and runs of others; one not named here builds on all before
it. A notebook run without those computes what it lacks by itself, but for the manifest of 01 and the
choices of 07, which those that need them ask for."""
FULL = re.compile(
    r"No space left on device|Disk quota exceeded|database or disk is full|rrno (28|122)\b"
)
"""How Python, SQLite and the libraries' compiled parts say that a disk is full."""
PERHAPS_FULL = re.compile(r"disk I/O error|PytorchStreamWriter|[Kk]ernel died|Bus error")
"""What is said of a full disk, and of other things."""


def find_notebooks(folder: Path = NOTEBOOKS) -> list[Path]:
    """The sources ``NN_name.py`` in order; raises ``PipelineError`` when there are none."""
    found = sorted(p for p in folder.glob("*.py") if re.match(r"\d\d_", p.name))
    if not found:
        raise PipelineError(f"{folder}: no notebooks; expected files like 01_name.py")
    return found


def select(notebooks: Sequence[Path], start: str | None, only: str | None) -> list[Path]:
    """The notebooks from ``start`` on, or ``only`` alone; each is ``2``, ``02`` or a name."""
    wanted = only or start
    if wanted is None:
        return list(notebooks)
    names = [p.stem for p in notebooks]
    places = [i for i, n in enumerate(names) if n == wanted or n[:2] == wanted.zfill(2)]
    if len(places) != 1:
        listing = "\n".join(f"  {name}" for name in names)
        raise PipelineError(f"There is no notebook {wanted!r}. These exist:\n{listing}")
    return list(notebooks[places[0] : places[0] + 1 if only else None])


def check_run(
    profile: Mapping[str, object], sources: Sequence[Path], *, refresh: bool, runs: Path = RUNS
) -> None:
    """Check, before anything runs, that all that a run writes can be written.

    Of the disk space that a whole run needs (:func:`_needed`) what is in the cache counts as there.
    Raises ``PipelineError``.
    """
    name = str(profile["profile"])
    try:
        check_places()
    except PlaceError as error:
        raise PipelineError(str(error)) from error
    for folder in (runs / name, FIGURES / name):
        for path in (folder, *folder.rglob("*")):
            if not (writable(path) if path == folder or path.is_dir() else _rewritable(path)):
                raise PipelineError(
                    f"{_shown(path)}: this user cannot write to it; remove it or change its owner"
                )
    twins = [source.with_suffix(".ipynb") for source in sources]
    fixed = [t for t in twins if not (writable(t.parent) and _rewritable(t))]
    if refresh and (fixed or FIGURES != COMMITTED_FIGURES):
        raise PipelineError(
            f"--refresh rewrites {_shown(fixed[0] if fixed else UNWRITABLE)}, "
            "which this user cannot write to; run without it, or in a copy of the project"
        )
    needed = _needed(profile) if len(sources) > 1 else 0
    cache = cache_root()
    free = shutil.disk_usage(cache).free
    if free < needed and free + _held(cache) < needed:
        raise PipelineError(
            f"{cache}: a {name} run needs {in_gb(needed - _held(cache))} more there, and "
            f"{in_gb(free)} are free; make room, or set EMOMM_CACHE to a folder on another disk"
        )
    runs.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(runs).free) < LEAST_FREE:
        raise PipelineError(
            f"{_shown(runs)}: {in_gb(free)} free on its disk, where {in_gb(LEAST_FREE)} are the "
            "least to begin with; make room"
        )


def _needed(profile: Mapping[str, object]) -> float:
    """Bytes that a whole run may take in the cache: ``disk_gb``, or less where ``clips`` are few.

    Of a number of clips it is ``disk_mb_a_clip`` for each, where the profile says that.
    """
    room = float(profile.get("disk_gb", 0)) * 1e9
    clips, each = profile.get("clips"), profile.get("disk_mb_a_clip")
    return room if clips is None or each is None else min(room, int(clips) * float(each) * 1e6)


def _rewritable(path: Path) -> bool:
    return not path.exists() or os.access(path, os.W_OK)


def _held(cache: Path) -> int:
    """Bytes of what runs have put into the cache."""
    return sum(
        file.stat().st_size
        for folder in cache.iterdir()
        if folder.name not in ("venv", "libraries")
        for file in (folder.rglob("*") if folder.is_dir() else [folder])
        if file.is_file()
    )


def prepare_jupyter() -> None:
    """Make kernels run this interpreter and keep Jupyter's files in the cache, not in HOME."""
    keep_jupyter_apart()
    # A warning for each parameter cell, and the paths that the progress lines already show.
    logging.getLogger("papermill").setLevel(logging.CRITICAL)


class NotebookFailed(PipelineError):
    """A notebook stopped at an error."""


class DiskFull(NotebookFailed):
    """A notebook stopped because a disk was full; its text says which."""


def run_notebook(
    source: Path,
    parameters: Mapping[str, object],
    folder: Path,
    *,
    cell_timeout: float | None = None,
    progress: bool = False,
) -> NotebookNode:
    """Execute a source into ``folder/<name>.ipynb`` and return it with its outputs.

    Parameters
    ----------
    parameters
        Values by name; only those that the notebook's parameters cell declares are injected.
    cell_timeout
        Longest time of one cell in seconds; None waits for ever.
    progress
        Show a bar that counts cells.

    Raises
    ------
    NotebookFailed
        With the error's last line, the section and the place of the traceback: in the run
        notebook and in ``folder/<name>.log``. :class:`DiskFull` where a disk is the reason.
    """
    notebook = read_source(source)
    declared = declared_parameters(notebook, source.name)
    output, log = folder / f"{source.stem}.ipynb", folder / f"{source.stem}.log"
    folder.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    try:
        return papermill.execute_notebook(
            notebook,
            # papermill fills in what stands in braces.
            re.sub(r"[{}]", r"\g<0>\g<0>", str(output)),
            parameters={name: parameters[name] for name in declared if name in parameters},
            kernel_name="python3",
            cwd=ROOT,
            execution_timeout=cell_timeout,
            progress_bar={"desc": source.stem, "leave": False} if progress else False,
            # The kernel's own log: a warning about local sockets, and noise when interrupted.
            extra_arguments=["--log-level=CRITICAL"],
        )
    # A kernel that dies while it starts is jupyter_client's plain RuntimeError.
    except (PapermillExecutionError, CellTimeoutError, RuntimeError, OSError, ValueError) as error:
        if isinstance(error, (PapermillExecutionError, CellTimeoutError)):
            text = _plain(str(error))
        else:
            text = "".join(traceback.format_exception(error))
        with suppress(OSError):
            log.write_text(text, encoding="utf-8", errors="backslashreplace")
        if full := full_disk(text):
            raise DiskFull(full) from error
        raise NotebookFailed(_failure(error, output, log, cell_timeout)) from error


def full_disk(said: str) -> str | None:
    """Words for the disk that an error's text speaks of, or None where no disk is full."""
    places = {cache_root(), RUNS, FIGURES, Path(tempfile.gettempdir())}
    free = {place: shutil.disk_usage(place).free for place in places if place.is_dir()}
    fullest = min(free, key=free.get)
    if FULL.search(said):
        named = re.search(r"(?:No space left on device|Disk quota exceeded): '(/.+?)'", said)
        place = Path(named[1]).parent if named else fullest
    elif PERHAPS_FULL.search(said) and free[fullest] < 1_000_000:
        place = fullest
    else:
        return None
    return f"the disk of {_shown(place)} is full"


def _failure(error: Exception, output: Path, log: Path, cell_timeout: float | None) -> str:
    if isinstance(error, PapermillExecutionError):
        said = f"{error.ename}: {_plain(error.evalue)}".strip().rstrip(":")
    elif isinstance(error, CellTimeoutError):
        said = f"a cell took longer than {cell_timeout:g} s (cell_timeout of the profile)"
    elif isinstance(error, DeadKernelError) or PERHAPS_FULL.search(str(error)):
        said = "the kernel died, often for want of memory"
    else:
        said = f"{type(error).__name__}: {plain(str(error))}"
    lines = [f"  error: {said}"]
    # Where it could not be written it is not a notebook.
    with suppress(OSError, ValueError):
        if section := _failing_section(nbformat.read(output, as_version=4)):
            lines.append(f"  section: {section}")
    return "\n".join([*lines, f"  outputs so far: {_shown(output)}", f"  traceback: {_shown(log)}"])


def _failing_section(notebook: NotebookNode) -> str:
    status = {
        index: cell.metadata.get("papermill", {}).get("status")
        for index, cell in enumerate(notebook.cells)
        if cell.cell_type == "code"
    }
    failed = [index for index, word in status.items() if word == "failed"]
    # papermill calls a cell completed when it timed out or its kernel died; none ran after it.
    ran = [index for index, word in status.items() if word == "completed"]
    stopped = failed or ran[-1:]
    return section_of(notebook, stopped[0]) if stopped else ""


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Keep a second run of the same profile from writing into ``folder`` at the same time."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PipelineError(f"Another run writes to {_shown(folder)}; wait for it") from None
        yield


def run(
    sources: Sequence[Path],
    profile: Mapping[str, object],
    *,
    refresh: bool = False,
    runs: Path = RUNS,
    say: Callable[[str], None] = partial(print, flush=True),
) -> pd.DataFrame:
    """Check a profile, run its notebooks in order, and return their comparisons as one table.

    As many notebooks at a time as the profile's ``jobs`` says, where they do not build on one
    another. With ``refresh`` the ``.ipynb`` beside each source is rewritten after its run. Raises
    ``PipelineError`` at the first thing that keeps the run from going on.
    """
    name, began, at = str(profile["profile"]), time.monotonic(), time.time()
    notebooks = {source: read_source(source) for source in sources}
    defaults = {s: declared_parameters(nb, s.name) for s, nb in notebooks.items()}
    declared = {key for own in defaults.values() for key in own}
    used = declared | {"profile", "render", "clips"}
    parameters = preflight({k: v for k, v in profile.items() if k in used and k not in SETTINGS})
    _check_formats(refresh)
    if refresh:
        _refuse_other_defaults(defaults, parameters)
    check_run(profile, sources, refresh=refresh, runs=runs)
    if OUTPUTS != ROOT:
        say(f"{UNWRITABLE} cannot be written to: runs and figures go to {OUTPUTS}")
    folder, jobs = runs / name, min(int(profile.get("jobs", 1)), len(sources))
    if parameters.get("executor") == "ray":
        # Each starts workers of its own, which would wait for those of the other.
        jobs = 1
    comparisons = [comparison_path(name, source.stem[:2], runs) for source in sources]
    prepare_jupyter()
    if jobs > 1:
        # Processes that spin for the same cores take several times as long.
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    steps = {source.stem: source for source in sources}
    by_number = {stem[:2]: stem for stem in steps}
    builds_on = {
        by_number[number]: [by_number[n] for n in before if n in by_number]
        for number, before in BUILDS_ON.items()
        if number in by_number
    }
    step = partial(
        _step, steps, parameters, folder, profile.get("cell_timeout"), refresh, runs, jobs, say
    )
    with only_run(folder):
        for kept in (*comparisons, *(recorded(name, runs) / f"{stem}.csv" for stem in steps)):
            kept.unlink(missing_ok=True)
        report = partial(write_run_report, profile | parameters, list(steps), at, runs=runs)
        try:
            in_turn(list(steps), builds_on, step, jobs)
        except (PipelineError, StepDied) as error:
            # Where there is no room for what was asked, there is none for this.
            with suppress(OSError):
                say(f"What ran, where and with what: {_shown(report(stopped=str(error)))}")
            if isinstance(error, PipelineError):
                raise
            raise PipelineError(str(error)) from error
        table = read_comparisons([path for path in comparisons if path.is_file()])
        table.to_csv(folder / "comparison.csv", index=False)
        written = report(compared=table)
    say(f"All done in {_elapsed(began)}; outputs are in {_shown(folder)}")
    say(f"A report to compare with another run's, or to attach to an issue: {_shown(written)}")
    if not refresh:
        say(_beside_committed(name, list(steps), _other_defaults(defaults, parameters), runs))
    return table


def _beside_committed(name: str, stems: Sequence[str], other: Sequence[str], runs: Path) -> str:
    """How this run's estimated values and figures compare with the committed ones."""
    kept = committed(name)
    if not kept.is_dir():
        return f"Nothing of the {name} profile is committed to compare with."
    if other:
        beginning = "Not compared with the committed values, which have other parameters:"
        return "\n".join([beginning, *other])
    compared = compare_notebooks(kept, recorded(name, runs), stems)
    return f"{compared.report()}\n{compare_files(name, compared, kept, stems)}"


def _step(
    steps: Mapping[str, Path],
    parameters: Mapping[str, object],
    folder: Path,
    cell_timeout: float | None,
    refresh: bool,
    runs: Path,
    jobs: int,
    say: Callable[[str], None],
    stem: str,
) -> None:
    """Run one notebook, say so, and rewrite its committed twin if asked to."""
    source, started = steps[stem], time.monotonic()
    step = f"[{list(steps).index(stem) + 1}/{len(steps)}] {stem}"
    say(f"{step}: running")
    try:
        executed = run_notebook(
            source,
            parameters,
            folder,
            cell_timeout=cell_timeout,
            # Bars of several notebooks would overwrite one another.
            progress=jobs == 1 and sys.stderr.isatty(),
        )
    except NotebookFailed as failure:
        again = shlex.join(
            ["./run_all.sh", "--profile", str(parameters["profile"]), "--from", stem[:2]]
        )
        if isinstance(failure, DiskFull):
            raise DiskFull(
                f"{step}: stopped after {_elapsed(started)}, because {failure}; "
                f"what had finished is kept: make room, and go on with {again}"
            ) from failure
        raise NotebookFailed(
            f"{step}: failed after {_elapsed(started)}\n{failure}\n  go on with: {again}"
        ) from failure
    say(f"{step}: done in {_elapsed(started)}, {_shown(folder / stem)}.ipynb")
    if refresh:
        twin = committed_form(read_source(source), executed, source.name)
        write_committed(twin, source.with_suffix(".ipynb"))
        commit_notebook(str(parameters["profile"]), stem, runs=runs)


def _other_defaults(
    defaults: Mapping[Path, Mapping[str, object]], parameters: Mapping[str, object]
) -> list[str]:
    """Where a profile's parameters differ from those that committed outputs come from."""
    return [
        f"  {source.name}: {name} = {value!r}, the profile has {parameters[name]!r}"
        for source, declared in defaults.items()
        for name, value in declared.items()
        if name in parameters and parameters[name] != value
    ]


def _refuse_other_defaults(
    defaults: Mapping[Path, Mapping[str, object]], parameters: Mapping[str, object]
) -> None:
    """Committed outputs stand under the parameters cell, so they must come from its values."""
    if other := _other_defaults(defaults, parameters):
        raise PipelineError(
            "--refresh needs a profile whose values are the notebooks' own defaults:\n"
            + "\n".join(other)
        )


def _check_formats(refresh: bool) -> None:
    """Refuse formats of figures that there are not, and others than the committed ones."""
    try:
        asked = figure_formats()
    except ValueError as error:
        raise PipelineError(str(error)) from None
    if refresh and asked != figure_formats(DEFAULT):
        raise PipelineError(
            f"--refresh writes the committed figures, which are {DEFAULT}; run it without "
            f"--formats and with {VARIABLE} unset"
        )


def _elapsed(since: float) -> str:
    seconds = time.monotonic() - since
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def arguments() -> argparse.ArgumentParser:
    """The command line's parser."""
    parser = argparse.ArgumentParser(prog="./run_all.sh", description=__doc__.splitlines()[0])
    add_run_options(parser)
    parser.add_argument(
        "--check", action="store_true", help="run nothing; say what a run would be, and if it fits"
    )
    parser.add_argument(
        "--measure", action="store_true", help="with --check: time two real batches, too"
    )
    return parser


def _check(profile: Mapping[str, object], *, measure: bool) -> int:
    # Imports torch, which a run's own process does without.
    from emomm_study.run.check import run_check

    own = preflight({k: v for k, v in profile.items() if k not in SETTINGS})
    try:
        return run_check(own, measure=measure)
    except (ValueError, OSError) as error:
        raise PipelineError(f"The {own['profile']} profile cannot start: {error}") from error


def _profile(options: argparse.Namespace) -> dict[str, object]:
    profile = load_profile(options.profile)
    if options.clips is not None:
        profile["clips"] = options.clips
    return profile


def _closing(profile: str, sources: Sequence[Path], *, refresh: bool, runs: Path = RUNS) -> str:
    """A screen about what was found, and the page with all of it, which is written."""
    everything = results.Found.of_run(profile, runs)
    page = runs / profile / results.PAGE.name
    with whole(page) as partial:
        partial.write_text(results.page([everything], notebooks=""), encoding="utf-8")
    lines = [results.short(everything.only(source.stem[:2] for source in sources))]
    lines.append(f"All of it, number beside number: {_shown(page)}")
    if refresh and committed(profile).is_dir():
        try:
            changed = results.rewrite()
        except results.Outdated as error:
            lines.append(str(error))
        else:
            lines += [f"Rewritten: {path.name}" for path in changed]
    return "\n".join(lines)


def run_asked(options: argparse.Namespace) -> tuple[pd.DataFrame, str]:
    """:func:`run` what a command line asks for (``run.options``); the table, and how to close.

    Raises ``PipelineError`` and ``PairError``, the former also where a disk is full.
    """
    if options.formats is not None:
        # Kernels are children of this process, and publish what it says.
        os.environ[VARIABLE] = options.formats
    profile = _profile(options)
    sources = select(find_notebooks(), options.start, options.only)
    try:
        table = run(sources, profile, refresh=options.refresh)
        return table, _closing(str(profile["profile"]), sources, refresh=options.refresh)
    except OSError as error:
        if not (full := full_disk(str(error))):
            raise
        again = "what had finished is kept: make room, and run again"
        raise PipelineError(f"Stopped, because {full}; {again}") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run the pipeline; 0 when every notebook ran, 1 when something stopped it, 130 on Ctrl-C."""
    options = arguments().parse_args(argv)
    if options.measure and not options.check:
        arguments().error("--measure goes with --check")
    try:
        if options.check:
            return _check(_profile(options), measure=options.measure)
        _, closing = run_asked(options)
    except (PipelineError, PairError) as error:
        print(f"{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. What had finished is kept; run again to go on.", file=sys.stderr)
        return 130
    print(f"\n{closing}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
