"""``emomm export``: the benchmark in another form, by a module of ``emomm_study.exchange``."""

from __future__ import annotations

import argparse

from emomm_study.command.outcome import Outcome, Refused, refusing
from emomm_study.corpora.imported.benchmark import is_imported
from emomm_study.corpora.manifest import read_manifest


def huggingface(options: argparse.Namespace) -> Outcome:
    """A folder that ``datasets.load_dataset`` reads."""
    from emomm_study.exchange.huggingface import export

    if is_imported(options.benchmark):
        raise Refused(
            f"{options.benchmark}: a benchmark of others, which is theirs to pass on; this export is of "
            "what build wrote"
        )
    with refusing(ValueError, OSError):
        manifest = read_manifest(options.benchmark)
    try:
        with refusing(ValueError, OSError):
            paths = export(
                manifest,
                options.out,
                note=options.note,
                terms=options.terms,
                with_text=options.with_text,
            )
    except ModuleNotFoundError as error:
        raise Refused(
            f"the package {error.name} is not installed; this export needs the extra exchange: "
            "pip install -e '.[exchange]'"
        ) from error
    found = {"folder": options.out, "files": [str(path) for path in paths]}
    said = "with transcripts" if options.with_text else "without transcripts"
    return Outcome(found, f"{len(paths)} files in {options.out}, {said}; no media")


def lmms_eval(options: argparse.Namespace) -> Outcome:
    """A folder that ``lmms_eval --include_path`` reads."""
    from emomm_study.exchange.lmms_eval import GROUP, export

    with refusing(ValueError, OSError):
        manifest = read_manifest(options.benchmark)
        paths = export(manifest, options.out, note=options.note, split=options.split)
    tasks = sorted(path.stem for path in paths if path.suffix == ".yaml" and path.stem != GROUP)
    found = {"folder": options.out, "files": [str(path) for path in paths], "tasks": tasks}
    return Outcome(
        found,
        f"{', '.join(tasks)} in {options.out}, with transcripts; no media. README.md there says how "
        "to run them",
    )
