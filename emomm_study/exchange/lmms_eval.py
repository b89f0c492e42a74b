"""The benchmark as tasks of lmms-eval: a folder that its ``--include_path`` takes; no media.

Documents as Parquet with the prompt of Appendix E rendered, tasks as YAML, the functions that they
name, and the reading of replies that scores every system here, word for word.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from emomm_lib.labels import COALITIONS
from emomm_study.corpora.manifest import MISSING_COALITIONS, SPLITS, expand_missing
from emomm_study.corpora.scores import Corpus
from emomm_study.exchange.huggingface import write_parquet
from emomm_study.paths import whole
from emomm_study.systems import replies
from emomm_study.systems.prompts import allowed_scores, check_transcript, messages

GROUP = "emomm"
SINGLE_COALITIONS = tuple(c for c in COALITIONS if len(c) == 1 or c == "none")
"""What the group does not ask, and PSMV and GTAR need."""
TASKS = {
    "align": "whole clips whose modalities agree",
    "conflict": "whole clips in which one contradicts",
    "missing": "every clip with one modality masked",
    "single": "every clip of which one modality is shown, or nothing",
}
METRICS = {"acc5": ("mean", True), "acc2": ("mean", True), "f1": ("macro_f1", True),
           "mae": ("mean", False)}  # fmt: skip
"""Of Table 1: how each is put together from documents, and whether more is better."""
COUNTS = {"answered": ("share_answered", True), "failed": ("total", False),
          "unparseable": ("total", False)}  # fmt: skip
COLUMNS = ("task", "sample_id", "corpus", "coalition", "subset", "label_gt", "score_gt",
           "video_path", "audio_path", "system", "prompt")  # fmt: skip
NEW_TOKENS = 64
"""A reply in the prompt's format has about eight; whoever argues is cut off, and unparseable."""
VERSION = 1
"""Of the tasks; raised where numbers of an older export are no longer comparable."""

_README = """\
# EmoMM for lmms-eval

{note}

Tasks for lmms-eval 0.7.3, split `{split}`, made by `emomm export lmms-eval`. Media stay where they are:

```
export EMOMM_CH_SIMS=/data/CH-SIMS-v2 EMOMM_CMU_MOSI=/data/CMU-MOSI
python -m lmms_eval --model qwen2_5_omni --model_args pretrained=Qwen/Qwen2.5-Omni-7B \\
    --include_path {folder} --tasks emomm --output_path logs --log_samples
emomm score logs --benchmark benchmark/manifest.parquet --split {split}
```

| task | what | documents |
|---|---|---|
{sizes}

`emomm` is the group of all but `emomm_single`. Prompts hold transcripts: **this folder is as
licensed as the corpora are**, and for your own use unless you may pass them on. What is scored, which models
hear the sound, and what is comparable: `docs/lmms_eval.md` of the EmoMM companion.
"""


class Function(str):
    """A function of ``utils.py``, as lmms-eval's YAML names one."""


class _Dumper(yaml.SafeDumper):
    """YAML with lmms-eval's tag for functions."""


_Dumper.add_representer(
    Function, lambda dumper, name: dumper.represent_scalar("!function", f"utils.{name}")
)


def documents(manifest: pd.DataFrame, split: str = "test") -> dict[str, pd.DataFrame]:
    """The documents of each task, columns :data:`COLUMNS`; a task that has none is left out.

    ``split`` is the part of the benchmark that is asked: ``test``, another, or ``all``. Raises
    ``ValueError`` for another word or a part without clips, and :class:`TranscriptError` for a blank
    transcript.
    """
    if split not in (*SPLITS, "all"):
        raise ValueError(f"split is one of {(*SPLITS, 'all')}; got {split!r}")
    clips = manifest if split == "all" else manifest[manifest["split"] == split]
    if clips.empty:
        raise ValueError(f"the benchmark has no clips in the split {split}; export another")
    clips = clips.sort_values("sample_id", ignore_index=True)
    single = clips.merge(pd.DataFrame({"coalition": SINGLE_COALITIONS}), how="cross")
    whole_clips = clips.assign(coalition="TAV")
    rows = {
        "align": whole_clips[whole_clips["subset"] == "align"],
        "conflict": whole_clips[whole_clips["subset"] == "conflict"],
        "missing": expand_missing(clips),
        "single": single,
    }
    return {name: _prompted(name, own) for name, own in rows.items() if len(own)}


def _prompted(task: str, rows: pd.DataFrame) -> pd.DataFrame:
    prompts = []
    for one in rows.to_dict("records"):
        if "T" in one["coalition"]:
            check_transcript(one["text"])
        system, user = messages(one["coalition"], one["corpus"], one["text"])
        prompts.append((system["content"][-1]["text"], user["content"][-1]["text"]))
    made = rows.assign(task=task, system=[s for s, _ in prompts], prompt=[p for _, p in prompts])
    return made[list(COLUMNS)].reset_index(drop=True)


def task_config(task: str, note: str) -> dict[str, Any]:
    """What lmms-eval reads of a task (its ``TaskConfig``)."""
    coalitions = {"missing": MISSING_COALITIONS, "single": SINGLE_COALITIONS}.get(task, ())
    metrics = {} if task == "single" else dict(METRICS)
    metrics |= {f"{m}_{c}": METRICS[m] for c in coalitions for m in METRICS}
    return {
        "task": f"{GROUP}_{task}",
        "dataset_path": "parquet",
        "dataset_kwargs": {"data_files": {"test": f"data/{task}.parquet"}},
        "test_split": "test",
        "output_type": "generate_until",
        **{
            name: Function(name)
            for name in ("doc_to_visual", "doc_to_text", "doc_to_messages", "doc_to_target",
                         "process_results")
        },
        # Without "until" lmms-eval puts an empty line there, at which it cuts a reply.
        "generation_kwargs": {
            "until": [], "max_new_tokens": NEW_TOKENS, "do_sample": False, "temperature": 0.0
        },
        "num_fewshot": 0,
        "metric_list": [
            {"metric": name, "aggregation": Function(how), "higher_is_better": more}
            for name, (how, more) in (metrics | COUNTS).items()
        ],
        "metadata": {"version": VERSION, "note": note},
    }  # fmt: skip


def _files(tables: dict[str, pd.DataFrame], note: str, split: str, folder: Path) -> dict[str, str]:
    """Every text file of the folder by its name."""
    asked = [f"{GROUP}_{task}" for task in tables if task != "single"]
    configs: dict[str, Any] = {f"{GROUP}_{task}": task_config(task, note) for task in tables}
    configs[GROUP] = {"group": GROUP, "task": asked, "metadata": {"version": VERSION}}
    sizes = [f"| `{GROUP}_{t}` | {TASKS[t]} | {len(rows):,} |" for t, rows in tables.items()]
    scores = {corpus.value: allowed_scores(corpus) for corpus in Corpus}
    readme = _README.format(note=note, split=split, folder=folder.name, sizes="\n".join(sizes))
    return {
        **{f"{name}.yaml": _yaml(config) for name, config in configs.items()},
        "scores.json": json.dumps(scores, indent=1) + "\n",
        "README.md": readme,
    }


def _yaml(config: dict[str, Any]) -> str:
    return yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


CODE = {
    "utils.py": Path(__file__).with_name("lmms_eval_utils.py"),
    "replies.py": Path(replies.__file__),
}
"""Files that are copied as they are."""


def _possible(folder: Path) -> Iterator[Path]:
    yield from (folder / name for name in (*CODE, "scores.json", "README.md", f"{GROUP}.yaml"))
    for task in TASKS:
        yield from (folder / f"{GROUP}_{task}.yaml", folder / "data" / f"{task}.parquet")


def export(
    manifest: pd.DataFrame, folder: Path | str, *, note: str, split: str = "test"
) -> list[Path]:
    """Write the tasks of a benchmark, and return the paths of their files.

    Parameters
    ----------
    manifest
        As :func:`emomm_study.corpora.manifest.read_manifest` gives it.
    note
        What the clips are, a profile's ``data_note`` for one; stands in every task.
    split
        As of :func:`documents`.

    Equal manifests give equal files. Raises ``ValueError`` without a note and as :func:`documents`,
    and ``FileExistsError`` for a folder that holds anything else.
    """
    if not note.strip():
        raise ValueError("tasks that give numbers say of which clips (note)")
    folder = Path(folder)
    possible = set(_possible(folder))
    for path in sorted(folder.rglob("*")) if folder.exists() else ():
        if path.is_file() and path not in possible and "__pycache__" not in path.parts:
            raise FileExistsError(f"{folder} holds {path.name}; give an empty folder")
    tables = documents(manifest, split)
    # What an earlier export of other clips left would be a task of its own.
    for path in possible:
        path.unlink(missing_ok=True)
    written = []
    for task, rows in tables.items():
        written.append(folder / "data" / f"{task}.parquet")
        write_parquet(written[-1], rows)
    for name, text in _files(tables, note, split, folder).items():
        written.append(folder / name)
        with whole(written[-1]) as partial:
            partial.write_text(text, encoding="utf-8", newline="\n")
    for name, source in CODE.items():
        written.append(folder / name)
        with whole(written[-1]) as partial:
            shutil.copyfile(source, partial)
    return written
