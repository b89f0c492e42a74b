# /// script
# requires-python = ">=3.10,<3.12"
# dependencies = [
#     "torch==2.2.0", "torchaudio==2.2.0", "torchvision==0.17.0", "numpy==1.24.4",
#     "transformers==4.42.3", "tokenizers==0.19.1", "huggingface_hub==0.23.4", "accelerate==0.26.1",
#     "timm==1.0.3", "einops==0.6.1", "pillow",
#     "videollama2 @ git+https://github.com/DAMO-NLP-SG/VideoLLaMA2@8cedfbda23e779246112cb963416b95415448a91",
# ]
# [[tool.uv.dependency-metadata]]
# name = "videollama2"
# version = "1.0"
# requires-dist = []
# ///
"""VideoLLaMA2.1-7B-AV as a driver: see ``serving`` for what it reads and writes.

usage: uv run --script videollama2.py --weights DAMO-NLP-SG/VideoLLaMA2.1-7B-AV --revision COMMIT \
    --tower-revision COMMIT

or any Python with the packages above; ``--repo`` names a checkout of the repository's branch
``audio_visual`` where it is not installed. Which build of torch, and from where, is the user's choice.

As in the repository's ``mm_infer`` a prompt has one marker: ``<video>`` for V and AV (the sound's
features follow the video's), ``<audio>`` for A, none for T, and a line break behind it in all. On
purpose different are:

- The system text is a turn of its own: a message list would put the marker into it. Nothing that a
  text spells out is a marker or a control token.
- The frames are those given; none is sampled again, and no black one added.
- One sound whatever the coalition, taken as ``process_audio_file`` takes a file: 30 seconds at most,
  zeros behind it, but of a longer one the beginning, not a random window. Of a *video* the
  repository, also in training, takes eight clips of 2 s: ``--sound clips``, then of A alone too.
- bfloat16 by default, since float16 overflows (the repository's issues 142, 176: answers of "!").
- Greedy, whatever the checkpoint's generation settings say of sampling or penalties.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import sys
import types
import unicodedata
from fractions import Fraction
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path

import numpy as np

serving = import_module(f"{__package__}.serving" if __package__ else "serving")

COMMIT = "8cedfbda23e779246112cb963416b95415448a91"
CODE = "aff5c2dc7022ed544c9260c1b2f6eced51ce2dc31328e333101fb94dcdeb1c59"
"""Of the repository's model code at this commit: :func:`code_digest`."""
TRANSFORMERS = "4.42.3"
"""With others it answers wrongly, its maintainers say (issue 123)."""
VIDEO, AUDIO = -201, -202
START, END = "<|im_start|>", "<|im_end|>"
SECONDS, CLIPS, CLIP_SECONDS, MELS, PATCH, MOST_FRAMES, MOST_NEW = 30, 8, 2, 128, 16, 32, 32
SOUNDS = {"whole": "first 30 s, zeros behind", "clips": "8 clips of 2 s in a row, zeros behind"}


def prompt_ids(query, plain, control) -> list[int]:
    """Token ids, one of them negative where the media go.

    ``plain`` tokenizes text without control tokens; ``control`` has the ids of the two there are.
    """
    start, end, line = control[START], control[END], plain("\n")
    marker = VIDEO if query.frames else AUDIO if query.sound is not None else None
    text = f"\n{query.text}"
    said = plain(f"user\n{text}") if marker is None else [*plain("user\n"), marker, *plain(text)]
    return [start, *plain(f"system\n{query.system}"), end, *line, start, *said, end, *line,
            start, *plain("assistant\n")]  # fmt: skip


def transcript_tokens(query, pieces: list[str]) -> int:
    """How many of the text's tokens, spelt a character a byte, lie in its transcript."""
    # The tokenizer composes characters first.
    heads = [unicodedata.normalize("NFC", query.text[:at]).encode() for at in query.transcript]
    ends = np.cumsum([len(piece) for piece in pieces])
    starts = np.concatenate([[0], ends[:-1]])
    return int(((ends > len(heads[0])) & (starts < len(heads[1]))).sum())


def cut_sound(samples: np.ndarray, how: str) -> np.ndarray:
    """Exactly 30 seconds of a sound at 16 kHz."""
    rate, most = serving.RATE, SECONDS * serving.RATE
    if how == "clips":
        last = Fraction(max(len(samples) / rate - CLIP_SECONDS, 0))
        starts = [last / CLIPS * i for i in range(CLIPS)]
        parts = [samples[int(s * rate) : int((s + CLIP_SECONDS) * rate)] for s in starts]
        samples = np.concatenate(parts)
    else:
        # The repository reads a file in double precision, and the features' rounding shows it.
        samples = samples[:most].astype(np.float64)
    if not samples.any():
        raise serving.Refused("what is taken of the sound is all zeros")
    return np.pad(samples, (0, most - len(samples)))


def frame_tensor(frames: list, processor):
    """``(frames, 3, H, W)`` of all frames, as the vision tower's own processor makes it."""
    if len(frames) % 2 or len(frames) > MOST_FRAMES:
        raise serving.Refused(
            f"{len(frames)} frames; two are joined and an odd one would be dropped: cut an even "
            f"number, at most {MOST_FRAMES} (it was trained with 16)"
        )
    return processor.preprocess(frames, return_tensors="pt")["pixel_values"]


def code_digest(package: Path) -> str:
    """Digest of the model code in a folder ``videollama2``, whatever its line ends."""
    digest = hashlib.sha256()
    for file in sorted([*package.glob("model/**/*.py"), package / "constants.py"]):
        name = file.relative_to(package).as_posix().encode()
        digest.update(name + b"\0" + file.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def find_code(repo: Path | None) -> None:
    """Make ``videollama2.model`` importable, or exit."""
    # This file has the package's name.
    paths = [p for p in sys.path if Path(p).resolve() != Path(__file__).resolve().parent]
    spec = PathFinder.find_spec("videollama2", [str(repo)] if repo else paths)
    package = Path(((spec and spec.submodule_search_locations) or ["."])[0])
    if not (package / "model").is_dir():
        sys.exit(
            f"VideoLLaMA2's code is not {f'in {repo}' if repo else 'installed'}; give --repo a "
            f"checkout of https://github.com/DAMO-NLP-SG/VideoLLaMA2 at {COMMIT}"
        )
    if code_digest(package) != CODE:
        sys.exit(f"the code in {package} is not that of commit {COMMIT} (branch audio_visual)")
    if (found := import_module("transformers").__version__) != TRANSFORMERS:
        sys.exit(f"transformers is {found}; VideoLLaMA2 needs {TRANSFORMERS}")
    # Its own __init__ wants what reads media files: moviepy, pytorchvideo, decord.
    sys.modules["videollama2"] = module = types.ModuleType("videollama2")
    module.__path__ = [str(package)]


def find_weights(name: str, revision: str | None, option: str) -> tuple[str, str]:
    """A model's folder, and what tells it from others: a digest, or the hub's commit."""
    if Path(name).is_dir():
        digest = hashlib.sha256()
        for file in sorted(Path(name).iterdir()):
            if file.suffix in (".json", ".safetensors", ".bin", ".txt"):
                digest.update(file.name.encode())
                with file.open("rb") as opened:
                    while block := opened.read(2**24):
                        digest.update(block)
        return name, f"{Path(name).resolve().name}@{digest.hexdigest()[:16]}"
    if not re.fullmatch("[0-9a-f]{40}", revision or ""):
        sys.exit(f"{name} is no folder here; to take it from the hub name its commit by {option}")
    hub = import_module("huggingface_hub")
    return hub.snapshot_download(name, revision=revision), f"{name}@{revision}"


class VideoLlama2:
    """The loaded model; called with a query, it answers."""

    def __init__(self, options) -> None:
        find_code(options.repo)
        import torch
        import transformers

        arch = import_module("videollama2.model.videollama2_arch")
        encoder = import_module("videollama2.model.encoder")
        qwen2 = import_module("videollama2.model.videollama2_qwen2")
        self.kaldi = import_module("torchaudio.compliance.kaldi")
        self.torch, self.options = torch, options
        self.device, self.dtype = torch.device(options.device), getattr(torch, options.dtype)
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.set_grad_enabled(False)
        folder, self.weights = find_weights(options.weights, options.revision, "--revision")
        config = transformers.AutoConfig.from_pretrained(folder)
        tower = options.tower or config.mm_vision_tower
        tower, self.tower = find_weights(tower, options.tower_revision, "--tower-revision")
        # The repository would choose the class by what is in the path.
        arch.build_vision_tower = lambda args, **own: encoder.SiglipVisionTower(tower, args, **own)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, use_fast=False)
        self.model, loading = qwen2.Videollama2Qwen2ForCausalLM.from_pretrained(
            folder, config=config, torch_dtype=self.dtype, low_cpu_mem_usage=True,
            output_loading_info=True,
        )  # fmt: skip
        # BEATs' classifier is not asked.
        if missing := [n for n in loading["missing_keys"] if "tower.predictor" not in n]:
            sys.exit(f"{folder} lacks weights: {missing}")
        self.vision = self.model.get_vision_tower()
        self.vision.load_model()
        self.vision.to(dtype=self.dtype)
        self.model.to(self.device).eval()
        self.control = {n: self.tokenizer.convert_tokens_to_ids(n) for n in (START, END)}
        self.letters = [self.plain(letter) for letter in serving.LETTERS]
        turns = [{"role": "system", "content": "S"}, {"role": "user", "content": "\nU"}]
        query = serving.Query("", [], None, 0.0, "S", "U", (0, 0), [], "letters")
        rendered = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True)
        if rendered != prompt_ids(query, self.plain, self.control):
            sys.exit(f"{folder}: its chat template or tokenizer is not Qwen2's")

    def hello(self) -> dict:
        """Everything that may change an answer."""
        names = "torch", "torchaudio", "transformers", "tokenizers", "timm", "numpy"
        versions = {name: import_module(name).__version__ for name in names}
        choices = {
            "sound": SOUNDS[self.options.sound],
            "frames": f"all given, an even number, at most {MOST_FRAMES}; trained with 16",
            "marker": "<video> for V and AV, <audio> for A, none for T; a line break behind it",
            "letters": "logits at the answer's first token",
            "scores": "log-probabilities of whole replies, without an end",
            "reply": f"greedy, at most {MOST_NEW} tokens",
        }
        return {
            "name": "VideoLLaMA2.1-7B-AV",
            "versions": {"python": platform.python_version(), "videollama2": COMMIT, **versions},
            "weights": self.weights, "tower": self.tower, "device": self.device.type,
            "dtype": self.options.dtype, "choices": choices,
        }  # fmt: skip

    def plain(self, text: str) -> list[int]:
        """Token ids of a text, none of them a control token, whatever it spells out."""
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids

    def __call__(self, query):
        ids, embeds, tokens = self.embed(query)
        pieces = self.tokenizer.convert_ids_to_tokens(self.plain(query.text))
        tokens["T"] = transcript_tokens(query, pieces)
        # One marker stands for both.
        markers = {"V": int(VIDEO in ids), "A": int(query.sound is not None and min(ids) < 0)}
        letters, scores, reply = None, None, None
        if query.mode == "free":
            reply = self.write(embeds)
        else:
            letters, scores = self.score(embeds, query.replies)
        return serving.Answer(letters, scores, reply, tokens, markers)

    def embed(self, query):
        """Ids, embeddings with the media in their place, and how many are V's and A's."""
        parts, tokens = {}, {"V": 0, "A": 0}
        if query.frames:
            parts["video"] = frame_tensor(serving.read_frames(query), self.vision.image_processor)
            tokens["V"] = len(query.frames) // 2 * (self.vision.num_patches_per_side // 2) ** 2
        if query.sound is not None:
            samples = cut_sound(serving.read_sound(query), self.options.sound)
            wave = self.torch.from_numpy(samples)[None] * 2**15
            features = self.kaldi.fbank(wave, num_mel_bins=MELS).to(self.torch.bfloat16)
            parts["audio"] = features[None]
            tokens["A"] = len(features) // PATCH * (MELS // PATCH)
        parts = {name: part.to(self.device, self.dtype) for name, part in parts.items()}
        ids = prompt_ids(query, self.plain, self.control)
        inputs = self.torch.tensor([ids], device=self.device)
        if not parts:
            return ids, self.model.get_model().embed_tokens(inputs), tokens
        modal = "video" if query.frames else "audio"
        media = [(parts if len(parts) == 2 else parts[modal], modal)]
        embeds = self.model.prepare_inputs_labels_for_multimodal(inputs, None, None, None, media)[3]
        if embeds.shape[1] != (expected := len(ids) - 1 + sum(tokens.values())):
            raise serving.Refused(f"a prompt of {embeds.shape[1]} embeddings; expected {expected}")
        return ids, embeds, tokens

    def run(self, embeds, cache):
        """Logits of what follows, where the cache has what comes before."""
        seen = cache.get_seq_length() + embeds.shape[1]
        mask = self.torch.ones((1, seen), dtype=self.torch.long, device=self.device)
        return self.model.get_model()(
            inputs_embeds=embeds, attention_mask=mask, past_key_values=cache, use_cache=True
        )[0]

    def score(self, embeds, replies: list[str]) -> tuple[list, list]:
        """Five logits after the prompt, and every whole reply's log-probability given it."""
        cache, head = import_module("transformers").DynamicCache(), self.model.lm_head
        first = self.finite(head(self.run(embeds, cache)[:, -1:]).float())
        scores = []
        for reply in replies:
            ids = self.torch.tensor([self.plain(reply)], device=self.device)
            logits = first
            if ids.shape[1] > 1:
                hidden = self.run(self.model.get_model().embed_tokens(ids[:, :-1]), cache)
                logits = self.torch.cat([first, self.finite(head(hidden).float())], 1)
                cache.crop(1 - ids.shape[1])
            scores.append(float(logits.log_softmax(-1).gather(2, ids[..., None]).sum()))
        return [float(first[0, 0, letter]) for [letter] in self.letters], scores

    def write(self, embeds) -> str:
        generation = import_module("transformers.generation")
        end = self.tokenizer.eos_token_id
        # A configuration of its own: the checkpoint's may sample or penalise.
        settings = generation.GenerationConfig(
            max_new_tokens=MOST_NEW, eos_token_id=end, pad_token_id=end, output_logits=True,
            return_dict_in_generate=True,
        )  # fmt: skip
        mask = self.torch.ones(embeds.shape[:2], dtype=self.torch.long, device=self.device)
        # The model's own generate takes no embeddings.
        said = generation.GenerationMixin.generate(
            self.model, inputs_embeds=embeds, attention_mask=mask, generation_config=settings
        )
        self.finite(self.torch.stack(said.logits))
        return self.tokenizer.decode(said.sequences[0], skip_special_tokens=True).strip()

    def finite(self, logits):
        if logits.isfinite().all():
            return logits
        raise serving.Refused(
            f"logits in {self.options.dtype} are not finite; start it with --dtype bfloat16, or "
            "with float32 if it is (the repository's issues 142 and 176)"
        )


def main() -> None:
    out = serving.take_stdout()
    # cuBLAS repeats itself with it; read when torch is imported.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", required=True, help="a folder, or a name at the hub")
    parser.add_argument("--revision", help="its commit, for a name at the hub")
    parser.add_argument("--tower", help="SigLIP, the same way; default: as the weights say")
    parser.add_argument("--tower-revision", help="its commit, for a name at the hub")
    parser.add_argument("--repo", type=Path, help="checkout of VideoLLaMA2's branch audio_visual")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    parser.add_argument("--sound", default="whole", choices=SOUNDS, help="what it takes of a sound")
    system = VideoLlama2(parser.parse_args())
    serving.serve(system.hello(), system, out)


if __name__ == "__main__":
    main()
