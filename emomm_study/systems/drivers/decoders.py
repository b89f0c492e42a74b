"""What drivers of open weights share: options, a pinned revision, letters and replies of a decoder.

Imported, as ``serving`` is, by scripts that run in environments of their own.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
from importlib import metadata
from pathlib import Path

from serving import LETTERS, Query, Refused

COMMIT = re.compile(r"[0-9a-f]{40}")
UNUSED = ["*.msgpack", "*.h5", "*.onnx", "*.fp32*"]
"""Files of a revision that hold the same weights for others."""
ENDS = 1 << 20


def options(script: str, summary: str) -> argparse.ArgumentParser:
    """What every driver of open weights is told; ``script`` names itself in what it refuses."""
    parser = argparse.ArgumentParser(prog=Path(script).name, description=summary)
    parser.add_argument("--weights", required=True, help="folder, or id on the hub")
    parser.add_argument("--revision", help="whole commit hash; required with an id on the hub")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--max-new-tokens", type=int, default=32, help="of a free reply")
    return parser


def pinned(script: str) -> dict:
    """What is pinned by ``==`` in the header of a script, by package."""
    header = Path(script).read_text(encoding="utf-8").split("# ///")[1]
    return dict(re.findall(r'"([\w-]+)==([^"]+)"', header))


def check_environment(script: str) -> None:
    """End where the interpreter has not the transformers that the driver is pinned to."""
    wanted = pinned(script)["transformers"]
    try:
        found = metadata.version("transformers")
    except metadata.PackageNotFoundError:
        found = "none"
    if found != wanted:
        sys.exit(
            f"{Path(script).name} needs transformers {wanted}, and {sys.executable} has {found}; "
            f"run it by `uv run --script {script}`, or by a Python that has the pins of its header"
        )


def folder(weights: str, revision: str | None, option: str = "--weights") -> tuple:
    """A folder with the files, and the commit that they are of, or None for one of the user's own."""
    if Path(weights).is_dir():
        if revision:
            sys.exit(f"{option} {weights} is a folder, and a revision is that of an id on the hub")
        return str(Path(weights).resolve()), None
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", weights):
        sys.exit(f"{option} {weights}: no such folder, and no id on the hub (OWNER/NAME)")
    if not COMMIT.fullmatch(revision or ""):
        sys.exit(
            f"{option} {weights} is an id on the hub and its revision is {revision!r}; expected a "
            "whole commit hash, 40 hexadecimal digits: a branch moves"
        )
    import huggingface_hub

    found = huggingface_hub.snapshot_download(weights, revision=revision, ignore_patterns=UNUSED)
    return found, revision


def called(weights: str) -> str:
    """An id, or a folder's own name: its path says nothing elsewhere, its digest does."""
    return Path(weights).resolve().name if Path(weights).is_dir() else weights


def stay_offline() -> None:
    """Fetch nothing more: what lies with weights asks the hub for files without a revision.

    After the last :func:`folder`, and before transformers is imported.
    """
    from huggingface_hub import constants

    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True


def digest(path: str, pattern: str = "*") -> str:
    """Of the files of a folder: names, sizes, and the first and last MiB of each."""
    found = hashlib.sha256()
    for file in sorted(Path(path).rglob(pattern)):
        own = file.relative_to(path)
        if file.is_file() and not any(part.startswith((".", "__")) for part in own.parts):
            size = file.stat().st_size
            found.update(f"{own.as_posix()}\0{size}\0".encode())
            with file.open("rb") as opened:
                found.update(opened.read(ENDS))
                opened.seek(max(ENDS, size - ENDS))
                found.update(opened.read())
    return found.hexdigest()


def hello(name: str, asked: argparse.Namespace, model, choices: dict, **more) -> dict:
    """What is said of a loaded model: all that an answer can depend on."""
    import torch

    device = model.device
    packages = "torch", "transformers", "tokenizers", "numpy"
    return {
        "name": name,
        "versions": {
            "python": sys.version.split()[0],
            **{package: metadata.version(package) for package in packages},
        },
        "weights": called(asked.weights),
        **more,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "dtype": asked.dtype,
        "choices": {**choices, "max_new_tokens": asked.max_new_tokens},
    }


def check_text(query: Query, tokenizer, marks: tuple = ()) -> None:
    """Raise :class:`Refused` where what is said spells a control token or a mark of media."""
    held = {word for word in tokenizer.get_added_vocab() if re.fullmatch(r"<.+>", word)}
    held.update(marks)
    found = sorted(word for word in held if word in query.text or word in query.system)
    if found:
        raise Refused(f"the text spells out {found}, which the model takes for more than text")


def transcript_tokens(query: Query, tokenizer) -> int:
    """How many tokens of the text hold a part of the transcript."""
    start, end = query.transcript
    spans = tokenizer(query.text, add_special_tokens=False, return_offsets_mapping=True)
    return sum(low < end and high > start for low, high in spans["offset_mapping"] if high > low)


def check_finite(logits) -> None:
    """Raise :class:`Refused` where one is not finite: the arg-max of NaN is token 0, "!"."""
    if not logits.isfinite().all():
        raise Refused("the logits are not finite; try bfloat16 in place of float16")


def prefill(llm, embeds) -> tuple:
    """Logits ``(vocabulary,)`` after a prompt's embeddings ``(1, Q, D)``, and the cache behind them."""
    read = llm.model(inputs_embeds=embeds, use_cache=True, return_dict=True)
    row = llm.lm_head(read.last_hidden_state[0, -1]).float()
    check_finite(row)
    return row, read.past_key_values


def letters_and_scores(llm, tokenizer, row, cache, replies: list) -> tuple:
    """Five logits of A..E, and the log-probability of each whole reply, without what ends it."""
    ids = [tokenizer.encode(letter, add_special_tokens=False) for letter in LETTERS]
    if any(len(own) != 1 for own in ids):
        raise Refused(f"the letters A..E are the tokens {ids}; expected one each")
    first = row.log_softmax(-1)
    scores = []
    for reply in replies:
        own = tokenizer.encode(reply, add_special_tokens=False, return_tensors="pt").to(row.device)
        total = first[own[0, 0]]
        if own.shape[1] > 1:
            read = llm.model(
                input_ids=own[:, :-1], past_key_values=cache, use_cache=True, return_dict=True
            )
            if not isinstance(cache, tuple):
                # What transformers has returned since; it was written into.
                cache.crop(1 - own.shape[1])
            after = llm.lm_head(read.last_hidden_state[0]).float().log_softmax(-1)
            total = total + after.gather(-1, own[0, 1:, None]).sum()
        scores.append(float(total))
    return [float(row[own[0]]) for own in ids], scores
