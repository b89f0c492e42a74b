"""The benchmark as a Hugging Face dataset: labels as Parquet, a card, Croissant metadata; no media.

``datasets.load_dataset(folder)`` reads it. Transcripts of the real corpora are licensed: they are left
out unless whoever exports says that they may pass them on.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
import pyarrow.parquet
from huggingface_hub import DatasetCardData

from emomm_lib.labels import CLASS_NAMES, SOURCES
from emomm_study.corpora.manifest import SPLITS, expand_missing
from emomm_study.paths import whole

CONFIGS = {
    "clips": "a row a clip, whole: Align and Conflict",
    "missing": "a row a clip and masked modality: Missing",
}
NAMES = {"train": "train", "valid": "validation", "test": "test"}
"""Splits as the manifest and as ``datasets`` call them."""
DESCRIPTIONS = {
    "sample_id": "Name of the clip, corpus/video/clip.",
    "corpus": "ch_sims_v2 or cmu_mosi.",
    "language": "zh or en.",
    "video_id": "Video that the clip is cut from.",
    "clip_id": "Clip within its video.",
    "speaker_id": "Speaker; all clips of one stand in one split.",
    "text": "Transcript.",
    "video_path": "The film in the corpus as its owners give it out, relative to its root.",
    "audio_path": "Likewise its sound.",
    "subset": "align, conflict, missing_align or missing_conflict (Sec. 3.2).",
    "stratum": "conflict, equal or same_polarity (Appendix A.1).",
    "coalition": "Modalities that are shown, of T, A, V.",
    **{f"score_{s.lower()}": f"Score of {s} in [-1, 1]." for s in SOURCES},
    **{f"label_{s.lower()}": f"Class of {s}, 0 to 4: {', '.join(CLASS_NAMES)}." for s in SOURCES},
}
_TYPES = {"int64": "INTEGER", "double": "FLOAT", "string": "TEXT", "large_string": "TEXT"}
"""Of columns in Arrow, by their names in Croissant."""

_CARD = """\
---
{front}
---

# EmoMM

{note}

Clips of two corpora, CH-SIMS v2.0 (Chinese) and CMU-MOSI (English), with classes of the whole clip and
of text, sound and film alone, so that one can ask whom a model follows where they disagree. No media are
here, and {text}: a row names the clip's files in the corpora as their owners give them out, and who
has them puts both together.

| configuration | rows | train | validation | test |
|---|---|---|---|---|
{sizes}

- **Align**: text, sound and film have the polarity of the whole. **Conflict**: one of them has not.
  **Missing**: a clip with one modality masked; `coalition` is what remains.
- Speakers stand in one split; choose on `validation` and report `test` once.
- Labels are 0 to 4 ({classes}); scores lie in [-1, 1] on steps of 0.2.

```python
from datasets import load_dataset

clips = load_dataset("{folder}", "clips")
missing = load_dataset("{folder}", "missing", split="test")
```

## Terms

{terms}

## Reading the numbers

Answers of a system are scored by this project (`docs/submissions.md`): accuracies with intervals over
clips, failures neither right nor wrong. The selection of clips follows the paper's Appendix A.1; where it
leaves a choice open, the project's first notebook says which was made.
"""


def _tables(manifest: pd.DataFrame, with_text: bool) -> dict[str, pd.DataFrame]:
    known = manifest if with_text else manifest.drop(columns="text")
    return {"clips": known, "missing": expand_missing(known)}


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """A table without its index and without pandas' own metadata, so that equal ones are equal files."""
    made = pyarrow.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
    with whole(path) as partial:
        pyarrow.parquet.write_table(made, partial, compression="zstd")


def export(
    manifest: pd.DataFrame,
    folder: Path | str,
    *,
    note: str,
    terms: str,
    with_text: bool = False,
    name: str = "EmoMM",
) -> list[Path]:
    """Write ``README.md``, ``croissant.json`` and a Parquet file a configuration and split.

    Parameters
    ----------
    manifest
        The benchmark, as :func:`emomm_study.corpora.manifest.read_manifest` gives it.
    note, terms
        What the clips are, a profile's ``data_note`` for one, and under which terms their labels may
        be passed on: printed in the card.
    with_text
        Put transcripts in: whoever says so may pass them on.

    Equal manifests give equal files. Returns their paths. Raises ``ValueError`` without a note or
    terms, and ``FileExistsError`` for a folder that holds anything else.
    """
    if not note.strip() or not terms.strip():
        raise ValueError("a dataset that is passed on says what it is (note) and its terms")
    folder = Path(folder)
    written = _files(folder)
    if folder.exists() and (others := sorted(set(folder.rglob("*")) - written)):
        others = [path for path in others if path.is_file()]
        if others:
            raise FileExistsError(f"{folder} holds {others[0].name}; give an empty folder")
    tables, paths = _tables(manifest, with_text), []
    for config, table in tables.items():
        for split in SPLITS:
            own = table[table["split"] == split].drop(columns="split").reset_index(drop=True)
            path = folder / config / f"{NAMES[split]}.parquet"
            write_parquet(path, own)
            paths.append(path)
    card = folder / "README.md"
    with whole(card) as partial:
        partial.write_text(
            _card(tables, folder, note=note, terms=terms, with_text=with_text, name=name), "utf-8"
        )
    metadata = folder / "croissant.json"
    with whole(metadata) as partial:
        languages = sorted(manifest["language"].unique())
        described = croissant(paths, folder, note=note, terms=terms, name=name, languages=languages)
        partial.write_text(json.dumps(described, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return [*paths, card, metadata]


def _files(folder: Path) -> set[Path]:
    tables = {folder / c / f"{NAMES[s]}.parquet" for c in CONFIGS for s in SPLITS}
    return tables | {folder / "README.md", folder / "croissant.json"}


def _card(
    tables: dict[str, pd.DataFrame],
    folder: Path,
    *,
    note: str,
    terms: str,
    with_text: bool,
    name: str,
) -> str:
    clips = tables["clips"]
    front = DatasetCardData(
        pretty_name=name,
        language=sorted(clips["language"].unique()),
        license="other",
        license_name="of-the-corpora",
        task_categories=["video-classification", "audio-classification", "text-classification"],
        tags=["multimodal", "sentiment-analysis", "emotion-recognition"],
        size_categories=["1K<n<10K" if len(clips) >= 1000 else "n<1K"],
        configs=[
            {
                "config_name": config,
                "data_files": [
                    {"split": NAMES[s], "path": f"{config}/{NAMES[s]}.parquet"} for s in SPLITS
                ],
                **({"default": True} if config == "clips" else {}),
            }
            for config in CONFIGS
        ],
    )
    sizes = "\n".join(
        f"| `{config}` | {CONFIGS[config]} | "
        + " | ".join(f"{(table['split'] == s).sum():,}" for s in SPLITS)
        + " |"
        for config, table in tables.items()
    )
    text = "transcripts are" if with_text else "no transcripts"
    return _CARD.format(
        front=front.to_yaml(), note=note, sizes=sizes, terms=terms, text=text, folder=folder.name,
        classes=", ".join(CLASS_NAMES),
    )  # fmt: skip


def croissant(
    paths: list[Path], folder: Path, *, note: str, terms: str, name: str, languages: list[str]
) -> dict[str, Any]:
    """Croissant metadata of Parquet files in a folder: a file, and its columns, a configuration and split.

    Made with mlcroissant, of the extra ``exchange``.
    """
    import mlcroissant as mlc

    files, sets = [], []
    for path in paths:
        inside = path.relative_to(folder)
        key = inside.with_suffix("").as_posix().replace("/", "-")
        content = path.read_bytes()
        files.append(
            mlc.FileObject(
                id=key,
                name=key,
                content_url=inside.as_posix(),
                content_size=f"{len(content)} B",
                encoding_formats=["application/x-parquet"],
                sha256=hashlib.sha256(content).hexdigest(),
            )
        )
        columns = pyarrow.parquet.read_schema(path)
        fields = [
            mlc.Field(
                id=f"{key}/{column.name}",
                name=column.name,
                description=DESCRIPTIONS[column.name],
                data_types=[getattr(mlc.DataType, _TYPES[str(column.type)])],
                source=mlc.Source(file_object=key, extract=mlc.Extract(column=column.name)),
            )
            for column in columns
        ]
        sets.append(mlc.RecordSet(id=f"{key}-rows", name=f"{key}-rows", fields=fields,
                                  description=CONFIGS[inside.parts[0]]))  # fmt: skip
    made = mlc.Metadata(
        name=name,
        description=note,
        license=[terms],
        version="1.0.0",
        in_language=languages,
        cite_as="EmoMM: Benchmarking and Steering MLLM for Multimodal Emotion Recognition under "
        "Conflict and Missingness",
        distribution=files,
        record_sets=sets,
    )
    return made.to_json()
