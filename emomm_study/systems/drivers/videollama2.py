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

from serving import RATE, Answer, Query, Refused, read_frames, read_sound, serve, take_stdout

OUT = take_stdout() if __name__ == "__main__" else None

import argparse  # noqa: E402
import hashlib  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
import types  # noqa: E402
from fractions import Fraction  # noqa: E402
from importlib import import_module  # noqa: E402
from importlib.machinery import PathFinder  # noqa: E402
from pathlib import Path  # noqa: E402

import decoders  # noqa: E402
import numpy as np  # noqa: E402

COMMIT = "8cedfbda23e779246112cb963416b95415448a91"
CODE = "aff5c2dc7022ed544c9260c1b2f6eced51ce2dc31328e333101fb94dcdeb1c59"
"""Of the repository's model code at this commit: :func:`code_digest`."""
VIDEO, AUDIO = -201, -202
START, END = "<|im_start|>", "<|im_end|>"
SECONDS, CLIPS, CLIP_SECONDS, MELS, PATCH, MOST_FRAMES = 30, 8, 2, 128, 16, 32
SOUNDS = {"whole": "first 30 s, zeros behind", "clips": "8 clips of 2 s in a row, zeros behind"}
CHOICES = {
    "frames": f"all given, an even number, at most {MOST_FRAMES}; trained with 16",
    "marker": "<video> for V and AV, <audio> for A, none for T; a line break behind it",
    "system": "in the system turn",
    "letters": "last prompt position",
    "decoding": "greedy, whatever the checkpoint's settings say",
}


def prompt_ids(query: Query, plain, control) -> list[int]:
    """Token ids, one of them negative where the media go.

    ``plain`` tokenizes text without control tokens; ``control`` has the ids of the two there are.
    """
    start, end, line = control[START], control[END], plain("\n")
    marker = VIDEO if query.frames else AUDIO if query.sound is not None else None
    text = f"\n{query.text}"
    said = plain(f"user\n{text}") if marker is None else [*plain("user\n"), marker, *plain(text)]
    return [start, *plain(f"system\n{query.system}"), end, *line, start, *said, end, *line,
            start, *plain("assistant\n")]  # fmt: skip


def cut_sound(samples: np.ndarray, how: str) -> np.ndarray:
    """Exactly 30 seconds of a sound at 16 kHz."""
    rate, most = RATE, SECONDS * RATE
    if how == "clips":
        last = Fraction(max(len(samples) / rate - CLIP_SECONDS, 0))
        starts = [last / CLIPS * i for i in range(CLIPS)]
        parts = [samples[int(s * rate) : int((s + CLIP_SECONDS) * rate)] for s in starts]
        samples = np.concatenate(parts)
    else:
        # The repository reads a file in double precision, and the features' rounding shows it.
        samples = samples[:most].astype(np.float64)
    if not samples.any():
        raise Refused("what is taken of the sound is all zeros")
    return np.pad(samples, (0, most - len(samples)))


def frame_tensor(frames: list, processor):
    """``(frames, 3, H, W)`` of all frames, as the vision tower's own processor makes it."""
    if len(frames) % 2 or len(frames) > MOST_FRAMES:
        raise Refused(
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
    # Its own __init__ wants what reads media files: moviepy, pytorchvideo, decord.
    sys.modules["videollama2"] = module = types.ModuleType("videollama2")
    module.__path__ = [str(package)]


class VideoLlama2:
    """The model and its tokenizer, which takes a control token in a text for the text it is."""

    def __init__(self, folder: str, tower: str, asked: argparse.Namespace) -> None:
        import torch
        from torchaudio.compliance import kaldi
        from transformers import AutoTokenizer
        from videollama2.model import encoder, videollama2_arch, videollama2_qwen2

        torch.use_deterministic_algorithms(True, warn_only=True)
        self.torch, self.kaldi = torch, kaldi
        self.sound, self.max_new_tokens = asked.sound, asked.max_new_tokens
        dtype = getattr(torch, asked.dtype)
        # The repository would choose the class by what is in the path.
        siglip = encoder.SiglipVisionTower
        videollama2_arch.build_vision_tower = lambda args, **own: siglip(tower, args, **own)
        self.model, report = videollama2_qwen2.Videollama2Qwen2ForCausalLM.from_pretrained(
            folder, torch_dtype=dtype, low_cpu_mem_usage=True, output_loading_info=True
        )
        # BEATs' classifier is not asked.
        if lacking := [name for name in report["missing_keys"] if "tower.predictor" not in name]:
            sys.exit(f"{folder} lacks the weights {lacking[:5]}, {len(lacking)} in all")
        self.vision = self.model.get_vision_tower()
        self.vision.load_model()
        self.vision.to(dtype=dtype)
        self.model.to(asked.device).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder, split_special_tokens=True)
        self.control = {n: self.tokenizer.convert_tokens_to_ids(n) for n in (START, END)}
        turns = [{"role": "system", "content": "S"}, {"role": "user", "content": "\nU"}]
        query = Query("", [], None, 0.0, "S", "U", (0, 0), [], "letters")
        rendered = self.tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, tokenizer_kwargs={"split_special_tokens": False}
        )
        spelt = set(self.plain(START + END)) & set(self.control.values())
        if spelt or rendered != prompt_ids(query, self.plain, self.control):
            sys.exit(f"{folder}: its chat template or tokenizer is not Qwen2's")

    def plain(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def embed(self, query: Query) -> tuple:
        """The prompt's embeddings with the media in their place, and tokens and marks of it."""
        media, ids = {}, prompt_ids(query, self.plain, self.control)
        tokens = {"V": 0, "A": 0, "T": decoders.transcript_tokens(query, self.tokenizer)}
        if query.frames:
            media["video"] = frame_tensor(read_frames(query), self.vision.image_processor)
            tokens["V"] = len(query.frames) // 2 * (self.vision.num_patches_per_side // 2) ** 2
        if query.sound is not None:
            wave = self.torch.from_numpy(cut_sound(read_sound(query), self.sound))[None] * 2**15
            features = self.kaldi.fbank(wave, num_mel_bins=MELS).to(self.torch.bfloat16)
            media["audio"] = features[None]
            tokens["A"] = len(features) // PATCH * (MELS // PATCH)
        media = {name: part.to(self.model.device, self.model.dtype) for name, part in media.items()}
        inputs = self.torch.tensor([ids], device=self.model.device)
        if media:
            modal = "video" if query.frames else "audio"
            given = [(media if len(media) == 2 else media[modal], modal)]
            prepare = self.model.prepare_inputs_labels_for_multimodal
            embeds = prepare(inputs, None, None, None, given)[3]
        else:
            embeds = self.model.get_model().embed_tokens(inputs)
        expected = len(ids) - bool(media) + tokens["A"] + tokens["V"]
        if embeds.shape[1] != expected:
            raise Refused(f"a prompt of {embeds.shape[1]} embeddings; expected {expected}")
        # One marker stands for both.
        return embeds, tokens, {"V": int(VIDEO in ids), "A": int("audio" in media and min(ids) < 0)}

    def answer(self, query: Query) -> Answer:
        with self.torch.inference_mode():
            embeds, tokens, markers = self.embed(query)
            if query.mode == "free":
                return Answer(reply=self.write(embeds), tokens=tokens, markers=markers)
            row, cache = decoders.prefill(self.model, embeds)
            found = decoders.letters_and_scores(
                self.model, self.tokenizer, row, cache, query.replies
            )
        return Answer(*found, tokens=tokens, markers=markers)

    def write(self, embeds) -> str:
        """A free reply; the model's own ``generate`` takes no embeddings."""
        from transformers import GenerationConfig, GenerationMixin

        end = self.tokenizer.eos_token_id
        # A configuration of its own: the checkpoint's may sample or penalise.
        settings = GenerationConfig(
            max_new_tokens=self.max_new_tokens, eos_token_id=end, pad_token_id=end,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        mask = self.torch.ones(embeds.shape[:2], dtype=self.torch.long, device=embeds.device)
        said = GenerationMixin.generate(
            self.model, inputs_embeds=embeds, attention_mask=mask, generation_config=settings
        )
        decoders.check_finite(self.torch.stack(said.logits))
        return self.tokenizer.decode(
            said.sequences[0], skip_special_tokens=True, clean_up_tokenization_spaces=False
        ).strip()


def main() -> None:
    # cuBLAS repeats itself with it; read when torch is imported.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    parser = decoders.options(__file__, "VideoLLaMA2.1-7B-AV")
    parser.add_argument("--tower", help="SigLIP: folder, or id on the hub; default: the weights'")
    parser.add_argument("--tower-revision", help="whole commit hash")
    parser.add_argument("--repo", type=Path, help="checkout of VideoLLaMA2's branch audio_visual")
    parser.add_argument("--sound", default="whole", choices=SOUNDS, help="what it takes of a sound")
    asked = parser.parse_args()
    find_code(asked.repo)
    # With others it answers wrongly, its maintainers say (issue 123).
    decoders.check_environment(__file__)
    folder, revision = decoders.folder(asked.weights, asked.revision)
    config = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
    named = asked.tower or config["mm_vision_tower"]
    tower, tower_revision = decoders.folder(named, asked.tower_revision, "--tower")
    decoders.stay_offline()
    system = VideoLlama2(folder, tower, asked)
    told = {
        "revision": revision,
        "towers": {"siglip": [decoders.called(named), tower_revision]},
        "files_sha256": {"weights": decoders.digest(folder), "siglip": decoders.digest(tower)},
        "code_sha256": CODE,
        "packages": {name: import_module(name).__version__ for name in ("timm", "torchaudio")},
    }
    choices = {**CHOICES, "sound": SOUNDS[asked.sound]}
    hello = decoders.hello("VideoLLaMA2.1-7B-AV", asked, system.model, choices, **told)
    serve(hello, system.answer, OUT)


if __name__ == "__main__":
    main()
