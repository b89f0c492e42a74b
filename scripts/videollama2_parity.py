"""Runs the driver of VideoLLaMA2.1-7B-AV against the repository's own code, at a tiny random size.

usage: python scripts/videollama2_parity.py --repo CHECKOUT --kaldi KALDI_PY --sampler SAMPLER_PY

CHECKOUT is a git checkout of branch ``audio_visual`` of https://github.com/DAMO-NLP-SG/VideoLLaMA2,
whose code is not part of this project. It runs in an environment with its own transformers, on a
CPU, in some minutes::

    python3.11 -m venv old && old/bin/pip install torch==2.13.0 torchvision==0.28.0 numpy==1.26.4 \
        transformers==4.42.3 tokenizers==0.19.1 huggingface_hub==0.36.2 accelerate==0.26.1 \
        timm==1.0.3 einops soundfile pillow safetensors
    pip download --no-deps torchaudio==2.9.1 && unzip torchaudio-*.whl torchaudio/compliance/kaldi.py
    pip download --no-deps pytorchvideo==0.1.5 && tar xzf pytorchvideo-0.1.5.tar.gz
    old/bin/python scripts/videollama2_parity.py --repo VideoLLaMA2 \
        --kaldi torchaudio/compliance/kaldi.py \
        --sampler pytorchvideo-0.1.5/pytorchvideo/data/clip_sampling.py

Packages that the repository imports to read media files are empty modules here (:data:`STUBS`).
A checkpoint with random weights is written (small ones; with ``--beats full`` the audio encoder in
its real size, which takes minutes more) and read by both sides: by the driver, in a process of its own and asked in JSON lines, and by the repository's
``model_init``, whose ``mm_infer`` answers with float32 for float16 and the CPU for CUDA. Its five
logits, its reply and its token ids have to be the driver's; so have log-probabilities of whole
replies, from one pass over prompt and reply. Written is ``tests/fixtures/videollama2.json``.
"""

from __future__ import annotations

import argparse
import ast
import functools
import hashlib
import importlib
import importlib.machinery
import importlib.util
import json
import platform
import runpy
import subprocess
import sys
import tempfile
import types
import wave
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
DRIVER = ROOT / "emomm_study" / "systems" / "drivers" / "videollama2.py"
FIXTURE = ROOT / "tests" / "fixtures" / "videollama2.json"
SEED = 16
CLOSE = 1e-5
"""Largest difference of logits that is allowed."""
STUBS = {
    "moviepy.editor": ("VideoFileClip",),
    "decord": ("VideoReader", "cpu"),
    "cv2": (),
    "imageio": (),
    "librosa": (),
    "pytorchvideo.data": (),
    "torchaudio.compliance": (),
}
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Qwen2's."""
DECODER = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "rope_theta": 1e6, "max_position_embeddings": 8192,
    "tie_word_embeddings": False, "num_frames": 16, "use_mm_proj": True, "mm_hidden_size": 16,
    "mm_projector_type": "stc_connector_v35", "mm_vision_select_layer": -2,
    "mm_audio_tower": "audio_tower.bin", "mm_hidden_size_a": 768, "hidden_size_a": 64,
    "mm_projector_a_type": "mlp2x_gelu",
}  # fmt: skip
VISION = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 384, "patch_size": 14,
}  # fmt: skip
BEATS = {
    "embed_dim": 24, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 48, "encoder_layers": 2,
    "encoder_attention_heads": 2, "conv_pos": 32, "conv_pos_groups": 4,
}  # fmt: skip
PREPROCESSOR = {
    "do_normalize": True, "do_rescale": True, "do_resize": True, "resample": 3,
    "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 255,
    "size": {"height": 384, "width": 384}, "image_processor_type": "SiglipImageProcessor",
}  # fmt: skip
POLICY = (
    "A (Negative) = {-1.0, -0.8}, B (Weakly Negative) = {-0.6, -0.4, -0.2}, C (Neutral) = {0.0}, "
    "D (Weakly Positive) = {0.2, 0.4, 0.6}, E (Positive) = {0.8, 1.0}"
)
REPLIES = ("A\nScore: -1.0", "C\nScore: 0.0", "E")
SPOKEN = {"V": "video", "A": "audio", "T": "transcript text"}
CASES = (
    ("T", "Well, I do not know.", 0), ("A", "", 3.5), ("V", "", 0), ("TA", "5 of them! 我不知道。", 3.5),
    ("TV", "Well, I do not know.", 0), ("AV", "", 1.3), ("TAV", "It was all right, I guess", 3.5),
    ("A", "", 33.0),
)  # fmt: skip
"""Coalition, transcript and seconds of sound."""
CLIPPED = (5, 6, 7)
"""Of these, sounds that are cut into clips as well: short, long and longer than the clips."""
SPELT = "He said <video> and <|im_end|>\n<audio>."
FRAMES = 16


def stub(name: str, attributes: tuple[str, ...] = ()) -> types.ModuleType:
    """Put an empty module, and those above it, where imports find it."""
    if name not in sys.modules:
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        module.__path__ = []
        sys.modules[name] = module
        above, _, own = name.rpartition(".")
        if above:
            setattr(stub(above), own, module)
    for attribute in attributes:
        setattr(sys.modules[name], attribute, None)
    return sys.modules[name]


def load(name: str, path: Path) -> types.ModuleType:
    """A module from a file alone, whatever package it is of."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prepare_imports(kaldi: Path, sampler: Path) -> None:
    """Make importable what both sides import and is not installed."""
    # A build of torchvision for CUDA beside one of torch for the CPU lacks its operators.
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        try:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        except RuntimeError:
            break
    prepare_imports.library = library
    for name, attributes in STUBS.items():
        stub(name, attributes)
    sys.modules["torchaudio"].__version__ = "stub"
    sys.modules["torchaudio.compliance"].kaldi = load("torchaudio.compliance.kaldi", kaldi)
    load("pytorchvideo.data.clip_sampling", sampler)


def shrink_beats(repo: Path) -> None:
    """Give the audio encoder, whose sizes are in its code and in no configuration, other ones."""
    if "videollama2" not in sys.modules:
        stub("videollama2").__path__ = [str(repo / "videollama2")]
    beats = importlib.import_module("videollama2.model.beats.BEATs").BEATsConfig
    real = beats.__init__

    def small(self, cfg=None):
        real(self, cfg)
        self.update(BEATS)

    beats.__init__ = small


def texts() -> dict[str, str]:
    """What is sent, out of the study's source: its own packages need not be here."""
    tree = ast.parse((ROOT / "emomm_study" / "systems" / "prompts.py").read_text(encoding="utf-8"))
    return {
        node.targets[0].id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }  # fmt: skip


def question(coalition: str, transcript: str) -> dict:
    """Texts of a query: see ``prompts.messages``."""
    own = texts()
    present = ", ".join(SPOKEN[m] for m in "VAT" if m in coalition)
    text = own["_INSTRUCTION"].format(present=present, policy=POLICY)
    span = (0, 0)
    if transcript:
        span = len(own["TRANSCRIPT_PREFIX"]), len(own["TRANSCRIPT_PREFIX"]) + len(transcript)
        text = f"{own['TRANSCRIPT_PREFIX']}{transcript}\n{text}"
    return {"system": own["SYSTEM_PROMPT"], "text": text, "transcript": span}


def samples(seconds: float) -> np.ndarray:
    """Whole numbers that a test makes again: a tone with steps in it, int16."""
    n = np.arange(int(seconds * 16_000), dtype=np.int64)
    return ((n * (37 + n // 4000) % 2001 - 1000) * (3 + n // 1600 % 5)).astype(np.int16)


def frame(number: int) -> np.ndarray:
    """An image that a test makes again, ``(90, 120, 3)`` uint8."""
    y, x, c = np.indices((90, 120, 3))
    return ((x * 2 + y * (1 + number % 3) + 40 * c + 15 * number) % 256).astype(np.uint8)


def write_media(folder: Path, seconds: float, name: str) -> str | None:
    if not seconds:
        return None
    with wave.open(str(folder / name), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(samples(seconds).tobytes())
    return str(folder / name)


def write_tokenizer(folder: Path) -> list[list[str]]:
    """A small tokenizer with Qwen2's way of cutting; returns its merges."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    corpus = [question(c, t)["text"] for c, t, _ in CASES] * 3 + [texts()["SYSTEM_PROMPT"]] * 3
    corpus += ["system\n\n", "user\n\n", "assistant\n\n"] * 9
    trainer = trainers.BpeTrainer(
        vocab_size=456, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [m if isinstance(m, list) else m.split(" ") for m in model["merges"]]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    added = {
        str(len(model["vocab"]) + i): {
            "content": name, "lstrip": False, "normalized": False, "rstrip": False,
            "single_word": False, "special": True,
        }
        for i, name in enumerate(CONTROL)
    }  # fmt: skip
    settings = {
        "tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": added, "bos_token": None,
        "additional_special_tokens": list(CONTROL[1:]), "eos_token": CONTROL[2],
        "pad_token": CONTROL[0], "unk_token": None, "chat_template": TEMPLATE, "errors": "replace",
        "model_max_length": 32768, "split_special_tokens": False,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return merges


def random_weights(model: torch.nn.Module) -> None:
    """Weights under which every part matters."""
    generator = torch.Generator().manual_seed(SEED)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if "audio_tower" in name and not name.endswith("relative_attention_bias.weight"):
            # As initialised: deep normalisation wants it so.
            continue
        if weight.ndim < 2:
            norm = "norm" in name or ".bn." in name
            weight.data = (1.0 if norm and name.endswith("weight") else 0.0) + 0.1 * noise
        elif "embed_tokens" in name:
            weight.data = 0.3 * noise
        else:
            weight.data = 1.5 * noise / weight[0].numel() ** 0.5


def write_checkpoint(folder: Path) -> tuple[Path, list[list[str]]]:
    """A folder with weights and tokenizer, and the vision tower's beside it."""
    from transformers import SiglipVisionConfig, SiglipVisionModel
    from videollama2.model.videollama2_qwen2 import (
        Videollama2Qwen2Config,
        Videollama2Qwen2ForCausalLM,
    )

    torch.manual_seed(SEED)
    tower, weights = folder / "siglip", folder / "weights"
    weights.mkdir()
    vision = SiglipVisionModel(SiglipVisionConfig(**VISION))
    random_weights(vision)
    vision.save_pretrained(tower)
    (tower / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    merges = write_tokenizer(weights)
    config = Videollama2Qwen2Config(
        **DECODER, mm_vision_tower=str(tower), vocab_size=256 + len(merges) + len(CONTROL),
        pad_token_id=256 + len(merges), eos_token_id=256 + len(merges) + 2, bos_token_id=None,
    )  # fmt: skip
    model = Videollama2Qwen2ForCausalLM(config)
    random_weights(model)
    # BEATs shares a table between its layers, which safetensors refuses.
    model.save_pretrained(weights, safe_serialization=False)
    return weights, merges


class Reference:
    """The repository's own path: ``model_init``, its readers, ``mm_infer``."""

    def __init__(self, weights: Path) -> None:
        import videollama2
        from videollama2 import mm_utils, model as loading

        self.module, self.mm_utils = videollama2, mm_utils
        loading.torch = types.SimpleNamespace(float16=torch.float32)
        torch.Tensor.half = torch.Tensor.float
        torch.Tensor.cuda = lambda tensor, *_, **__: tensor
        self.model, self.processor, self.tokenizer = videollama2.model_init(
            str(weights), device="cpu"
        )
        self.generate = self.model.generate
        self.model.generate = self.watched
        self.template = self.tokenizer.apply_chat_template
        fbank = mm_utils.ta_kaldi.fbank
        self.heard = {}

        @functools.wraps(fbank)
        def watched(waveform, **settings):
            self.heard["last"] = (waveform[0] / 2**15).numpy()
            return fbank(waveform, **settings)

        mm_utils.ta_kaldi = types.SimpleNamespace(fbank=watched)

    def watched(self, inputs, **settings):
        """Generation that keeps its scores and what it was given."""
        self.asked = inputs[0].tolist(), settings["images"]
        self.said = self.generate(
            inputs, **settings, output_scores=True, return_dict_in_generate=True
        )
        return self.said.sequences

    def media(self, frames: list, sound: str | None, how: str):
        """Tensors by the repository's readers, and the name of the modality."""
        video = self.processor["video"](list(frames), va=False) if frames else None
        audio = None
        if sound is not None and how == "whole":
            audio = self.processor["audio"](sound)
        elif sound is not None:
            with wave.open(sound, "rb") as file:
                data = np.frombuffer(file.readframes(file.getnframes()), np.int16)
            track = data.astype(np.float32) / 32768.0
            # In place of ffmpeg; all that follows is the repository's.
            self.mm_utils.load_audio_from_video = lambda path: (track, 16_000)
            audio = self.mm_utils.process_audio_from_video("a video", len(track) / 16_000)
        if video is not None and audio is not None:
            return {"video": video, "audio": audio}, "video"
        if video is None and audio is None:
            return None, "text"
        return (video, "video") if audio is None else (audio, "audio")

    def __call__(self, system: str, text: str, media, modal: str, replies) -> dict:
        # mm_infer takes no system text beside a marker: it comes in by the template.
        self.tokenizer.apply_chat_template = lambda messages, **own: self.template(
            [{"role": "system", "content": system}, *messages], **own
        )
        written = self.module.mm_infer(
            media, text, self.model, self.tokenizer, modal=modal, do_sample=False, max_new_tokens=32
        )
        letters = [self.tokenizer(x, add_special_tokens=False).input_ids for x in "ABCDE"]
        ids, images = self.asked
        return {
            "letters": [float(self.said.scores[0][0, i]) for [i] in letters],
            "scores": self.whole(ids, images, replies),
            "reply": written,
            "ids": ids,
        }

    @torch.no_grad()
    def whole(self, ids: list, images, replies) -> list[float]:
        """Log-probability of each reply from one pass over prompt and reply, without a cache."""
        inputs, found = torch.tensor([ids]), []
        embed = self.model.get_model().embed_tokens
        prompt = embed(inputs) if images is None else self.prepared(inputs, images)
        for reply in replies:
            more = torch.tensor([self.tokenizer(reply, add_special_tokens=False).input_ids])
            embeds = torch.cat([prompt, embed(more)], 1)
            mask = torch.ones(embeds.shape[:2], dtype=torch.long)
            logits = self.model(inputs_embeds=embeds, attention_mask=mask).logits
            own = logits[:, -more.shape[1] - 1 : -1].log_softmax(-1)
            found.append(float(own.gather(2, more[..., None]).sum()))
        return found

    def prepared(self, inputs, images):
        prepare = self.model.prepare_inputs_labels_for_multimodal
        return prepare(inputs, torch.ones_like(inputs), None, None, images)[3]


def start_driver(chosen, weights: Path, queries: list[dict], *more: str) -> subprocess.Popen:
    """A driver in a process of its own, its questions in a file beside the weights."""
    command = [
        sys.executable, __file__, "--driver", "--kaldi", chosen.kaldi, "--sampler", chosen.sampler,
        "--repo", chosen.repo, "--weights", weights, "--tower", weights.parent / "siglip",
        "--device", "cpu", "--beats", chosen.beats, *more,
    ]  # fmt: skip
    asked = weights.parent / f"{more[-1]}.jsonl"
    asked.write_text("".join(json.dumps(query) + "\n" for query in queries))
    with asked.open() as lines:
        return subprocess.Popen(
            list(map(str, command)), stdin=lines, stdout=subprocess.PIPE, text=True
        )


def answers(process: subprocess.Popen, queries: list[dict]) -> tuple[dict, list[dict]]:
    """Hello and answers of a driver that has ended."""
    hello, *found = map(json.loads, process.communicate()[0].splitlines())
    for query, answer in zip(queries, found, strict=True):
        if answer["id"] != query["id"] or "error" in answer:
            sys.exit(f"query {query['id']}: {answer}")
    return hello, found


def be_driver(arguments: list[str]) -> None:
    """Run the driver in this process, with the modules that are not installed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--driver", action="store_true")
    parser.add_argument("--kaldi", type=Path)
    parser.add_argument("--sampler", type=Path)
    parser.add_argument("--beats")
    own, sys.argv[1:] = parser.parse_known_args(arguments)
    prepare_imports(own.kaldi, own.sampler)
    if own.beats == "small":
        shrink_beats(Path(sys.argv[sys.argv.index("--repo") + 1]))
    sys.path.insert(0, str(DRIVER.parent))
    runpy.run_path(str(DRIVER), run_name="__main__")


def digest(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def main() -> int:
    if "--driver" in sys.argv:
        be_driver(sys.argv[1:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repo", type=Path, required=True, help="checkout of the repository")
    parser.add_argument("--kaldi", type=Path, required=True, help="torchaudio's kaldi.py")
    parser.add_argument(
        "--sampler", type=Path, required=True, help="pytorchvideo's clip_sampling.py"
    )
    parser.add_argument("--beats", choices=("small", "full"), default="small")
    parser.add_argument("--out", type=Path, default=FIXTURE)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    prepare_imports(chosen.kaldi, chosen.sampler)
    sys.path.insert(0, str(chosen.repo.resolve()))
    sys.path.append(str(DRIVER.parent))
    driver = load("driver", DRIVER)
    importlib.import_module("videollama2")
    if chosen.beats == "small":
        shrink_beats(chosen.repo)
        DECODER["mm_hidden_size_a"] = BEATS["encoder_embed_dim"]
    with tempfile.TemporaryDirectory() as name:
        found = compare(chosen, Path(name), driver)
    print(json.dumps(found["errors"], indent=1))
    largest = max(found["errors"].values())
    if not largest < CLOSE:
        print(f"largest difference {largest}; expected less than {CLOSE}")
        return 1
    chosen.out.write_text(dumped(found), encoding="utf-8")
    return 0


def pictures() -> list:
    from PIL import Image

    return [Image.fromarray(frame(number)) for number in range(FRAMES)]


def own_path(reference: Reference, query: dict, how: str, folder: Path) -> dict:
    """What the repository makes of a query."""
    print(how, query["id"], file=sys.stderr, flush=True)
    _, _, seconds = CASES[int(query["id"].split()[0])]
    sound = query["sound"]
    if how == "whole" and seconds > 30:
        # Of a longer file the repository takes a random window.
        sound = write_media(folder, 30, "first.wav")
    media, modal = reference.media(pictures() if query["frames"] else [], sound, how)
    own = reference(query["system"], query["text"], media, modal, REPLIES)
    heard = reference.heard["last"] if sound else None
    return {"modal": modal, **own, "heard": sound and [str(heard.dtype), digest(heard)]}


def compare(chosen, folder: Path, driver) -> dict:
    """Ask both sides; what goes into the fixture."""
    weights, merges = write_checkpoint(folder)
    paths = [str(folder / f"{number}.png") for number in range(FRAMES)]
    for picture, path in zip(pictures(), paths, strict=True):
        picture.save(path)
    queries = []
    for number, (coalition, transcript, seconds) in enumerate(CASES):
        queries.append({
            "id": str(number), **question(coalition, transcript),
            "frames": paths if "V" in coalition else [],
            "sound": write_media(folder, seconds, f"{number}.wav"),
            "seconds_per_frame": 0.5 if "V" in coalition else 0.0,
        })  # fmt: skip
    both = {
        how: [
            {**query, "id": f"{query['id']} {mode}", "mode": mode,
             "replies": REPLIES if mode == "letters" else []}
            for query in queries if how == "whole" or int(query["id"]) in CLIPPED
            for mode in ("letters", "free")
        ]
        for how in ("whole", "clips")
    }  # fmt: skip
    started = {
        how: start_driver(chosen, weights, asked, "--dtype", "float32", "--sound", how)
        for how, asked in both.items()
    }
    reference = Reference(weights)
    expected = {how: [own_path(reference, query, how, folder) for query in both[how][::2]]
                for how in both}  # fmt: skip
    answered = {how: answers(started[how], both[how]) for how in both}
    plain = functools.partial(
        reference.tokenizer, add_special_tokens=False, split_special_tokens=True
    )
    control = {name: reference.tokenizer.convert_tokens_to_ids(name) for name in CONTROL}
    cases, errors = [], {}
    for how, (_, found) in answered.items():
        rows = zip(both[how][::2], expected[how], found[::2], found[1::2], strict=True)
        for query, own, letters, free in rows:
            number = int(query["id"].split()[0])
            coalition, transcript, seconds = CASES[number]
            asked = driver.Query(**query)
            ids = driver.prompt_ids(asked, lambda text: plain(text).input_ids, control)
            if ids != own["ids"] or free["reply"] != own["reply"]:
                sys.exit(
                    f"{how} {coalition}: other tokens, or {free['reply']!r} for {own['reply']!r}"
                )
            for part in ("letters", "scores"):
                differences = np.subtract(letters[part], own[part])
                errors[f"{how} {number} {coalition} {part}"] = float(np.abs(differences).max())
            cases.append({
                "sound": how, "coalition": coalition, "transcript": transcript, "seconds": seconds,
                "span": query["transcript"], "tokens": letters["tokens"],
                "markers": letters["markers"], **own,
            })  # fmt: skip
    spelt = driver.Query(
        **question("TAV", SPELT), id="", frames=paths, sound="", seconds_per_frame=0.5, replies=[],
        mode="letters",
    )  # fmt: skip
    pixels = reference.processor["video"](pictures(), va=False).numpy()
    from importlib.metadata import version

    names = ("torch", "numpy", "transformers", "tokenizers", "timm", "accelerate", "pillow")
    return {
        "made_by": "scripts/videollama2_parity.py",
        "repository": "https://github.com/DAMO-NLP-SG/VideoLLaMA2",
        "commit": driver.COMMIT,
        "code": driver.code_digest(chosen.repo / "videollama2"),
        "versions": {"python": platform.python_version(), **{n: version(n) for n in names}},
        "beats": chosen.beats,
        "hello": answered["whole"][0],
        "control": control,
        "merges": [" ".join(pair) for pair in merges],
        "template": TEMPLATE,
        "spelt": {"transcript": SPELT,
                  "ids": driver.prompt_ids(spelt, lambda text: plain(text).input_ids, control)},
        "pixels": {"shape": pixels.shape, "mean": float(pixels.mean()),
                   "corner": pixels[:, :, 5, 7].tolist()},
        "cases": cases,
        "errors": errors,
    }  # fmt: skip


def dumped(found: dict) -> str:
    """JSON with a line for every entry, and for every case."""
    cases = ",\n  ".join(json.dumps(case) for case in found["cases"])
    lines = [
        f" {json.dumps(name)}: {json.dumps(value)}"
        for name, value in found.items()
        if name != "cases"
    ]
    return "{\n" + ",\n".join([*lines, f' "cases": [\n  {cases}]']) + "\n}\n"


if __name__ == "__main__":
    sys.exit(main())
