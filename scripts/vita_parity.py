"""Writes what VITA-1.5's own code computes at a tiny random size, for the tests of our port.

usage: python scripts/vita_parity.py --repo CHECKOUT --kaldi KALDI_PY

CHECKOUT is a git checkout of https://github.com/eternity-blog/VITA-RL (or of tuannv-github/VITA),
whose code is for academic use and is not part of this project. It runs on old packages, in an
environment that has no others of these names::

    python3.11 -m venv old && old/bin/pip install torch==2.13.0 numpy==1.26.4 transformers==4.41.1 \
        tokenizers==0.19.1 huggingface_hub==0.36.2 safetensors pillow pyyaml einops six
    pip download --no-deps torchaudio==2.9.1 && unzip torchaudio-*.whl torchaudio/compliance/kaldi.py
    old/bin/python scripts/vita_parity.py --repo VITA-RL --kaldi torchaudio/compliance/kaldi.py

A CPU build of torch is enough. Packages that the code imports and that its VITA-1.5 needs for
nothing that is computed here are replaced by empty modules: :data:`STUBS`. Written are
``tests/fixtures/vita_parity.safetensors`` (weights under their published names, inputs, outputs)
and ``vita_parity.json``, which says what made it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.machinery
import importlib.util
import json
import platform
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
import safetensors
import torch
import transformers
import yaml
from safetensors.torch import save_file

FIXTURES = Path(__file__).resolve().parents[1] / "tests" / "fixtures"
SEED = 15
DECODER = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "rope_theta": 1e6,
    "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 63,
    "tie_word_embeddings": False,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "image_size": 56, "patch_size": 14, "qkv_bias": True, "qk_normalization": False,
    "norm_type": "layer_norm", "use_flash_attn": False, "layer_norm_eps": 1e-6,
}  # fmt: skip
PREPROCESSOR = {
    "crop_size": 56, "size": 56, "do_center_crop": True, "do_normalize": True, "do_resize": True,
    "resample": 3, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
    "image_processor_type": "CLIPImageProcessor",
}  # fmt: skip
MELS, CHANNELS, WIDTH = 80, 8, 16
TRAIN = {
    "cmvn_file": None,
    "is_json_cmvn": False,
    "input_dim": MELS,
    "encoder_conf": {
        "overview_conf": {
            "encoder-input-dim": MELS,
            "encoder-output-dim": WIDTH,
            "encoder-layer-config": "subsampling-transformer",
        },
        "para_conf": {
            "subsampling": {
                "subsampling-rate": 4,
                "subsampling-input-dim": MELS,
                "subsampling-output-dim": CHANNELS,
                "subsampling-dropout-rate": 0.1,
            },
            "transformer": {
                "transformer-input-dim": CHANNELS,
                "transformer-output-dim": WIDTH,
                "transformer-attention-dim": WIDTH,
                "transformer-attention-heads": 2,
                "transformer-linear-units": 24,
                "transformer-num-blocks": 2,
                "transformer-dropout-rate": 0.1,
                "transformer-attention-dropout-rate": 0.0,
                "transformer-positional-dropout-rate": 0.1,
                "transformer-input-layer": "linear",
                "transformer-pos-enc-class": "rel-enc",
                "transformer-normalize-before": True,
                "transformer-concat-after": False,
                "transformer-positionwise-layer-type": "linear",
                "transformer-chunk_size": -1,
                "transformer-left_chunks": -1,
                "transformer-dynamic-chunks": False,
            },
        },
    },
    "model_conf": {
        "llm_path": "",
        "enc_out_dim": WIDTH,
        "llm_embed_dim": DECODER["hidden_size"],
        "kernel_size": 5,
        "adpter_type": "subsampling",
        "activation_func": "gelu",
        "norm": "layer",
    },
    "dataset_conf": {
        "resample_conf": {"resample_rate": 16_000},
        "fbank_conf": {"num_mel_bins": MELS, "frame_length": 25, "frame_shift": 10, "dither": 0.0},
    },
}
CHUNKS = ((-1, -1), (4, 2), (4, -1), (3, 0), (1, 1))
"""Chunk size and chunks to the left; -1 is full attention, and all to the left."""
SAMPLES = (16_000, 9_999, 6_500)
"""Of the three sounds, which are padded to the longest."""
IMAGE, AUDIO = -200, -500
PROMPTS = (
    (5, 9, IMAGE, IMAGE, 7, 11, AUDIO, 3, 21),
    (8, IMAGE, 30, AUDIO, 12),
    (40, 2, 17, AUDIO, 50, 51, 52),
)
"""Tokens and marks: two frames and a sound, one of each, and a sound alone."""
STEPS = 12
STUBS = {
    "timm.models.layers": ("DropPath",),
    "timm.layers.norm_act": ("LayerNormAct2d",),
    "torchvision.models.mobilenetv3": ("InvertedResidual", "InvertedResidualConfig"),
    "torchvision.ops.misc": ("SqueezeExcitation",),
    "vita.model.multimodal_encoder.clip.clip_encoder": ("CLIPVisionTower",),
    "vita.model.multimodal_encoder.eva_clip.eva_clip_encoder": ("EvaClipVisionTower",),
    "vita.model.multimodal_encoder.siglip.siglip_encoder": (
        "SiglipVisionTower",
        "SiglipVisionTowerS2",
    ),
    "vita.model.language_model.vita_mixtral": ("VITAMixtralConfig", "VITAMixtralForCausalLM"),
    "vita.model.language_model.vita_nemo": ("VITAMistralConfig", "VITAMistralForCausalLM"),
    "vita.model.language_model.vita_fo_qwen2": ("VITAFOQwen2Config", "VITAFOQwen2ForCausalLM"),
}
"""Modules that are imported and not used, with the names that are imported from them."""


def stub(name: str, attributes: tuple[str, ...] = (), package: bool = True) -> types.ModuleType:
    """Put an empty module, and those above it, where imports find it."""
    if name in sys.modules:
        module = sys.modules[name]
    else:
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=package)
        if package:
            module.__path__ = []
        sys.modules[name] = module
        above, _, own = name.rpartition(".")
        if above and not above.startswith("vita"):
            setattr(stub(above), own, module)
    for attribute in attributes:
        setattr(module, attribute, type(attribute, (torch.nn.Module,), {}))
    return module


def prepare_imports(repo: Path, kaldi: Path) -> types.ModuleType:
    """Make the reference importable; returns torchaudio's stub."""
    sys.path.insert(0, str(repo))
    for name, attributes in STUBS.items():
        stub(name, attributes)
    torchaudio = stub("torchaudio")
    stub("torchaudio.compliance")
    spec = importlib.util.spec_from_file_location("torchaudio.compliance.kaldi", kaldi)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    torchaudio.compliance.kaldi = module
    return torchaudio


def random_weight(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A weight that is nowhere near the identity, small where an epsilon is to matter."""
    noise = rng.standard_normal(shape)
    if name.endswith(("global_cmvn.mean", "global_cmvn.istd")):
        return 14 + noise if name.endswith("mean") else 0.3 + 0.02 * noise
    if "norm" in name or "bn2" in name or "embed.1." in name:
        return (0.2 if name.endswith("bias") else 1 + 0.2 * noise) + 0 * noise
    if name.endswith(("ls1", "ls2")):
        return 0.5 + 0.2 * noise
    if "pos_bias" in name:
        return 0.5 * noise
    if name.endswith("bias"):
        return 0.02 * noise
    if "embeddings." in name or "embed_tokens" in name or "core.out" in name or "embed.0." in name:
        return 0.02 * noise
    fan_in = int(np.prod(shape[1:]))
    return (0.2 if "conv1d2" in name else 1.5) * noise / fan_in**0.5


def build(folder: Path, rng: np.random.Generator) -> torch.nn.Module:
    """The reference model with random weights, from the folders that it wants to read."""
    from vita.model.language_model.vita_qwen2 import VITAQwen2Config, VITAQwen2ForCausalLM
    from vita.model.multimodal_encoder.internvit.configuration_intern_vit import InternVisionConfig
    from vita.model.multimodal_encoder.internvit.modeling_intern_vit import InternVisionModel
    from vita.model.multimodal_encoder.whale.init_model import init_model

    vision = folder / "internvit"
    InternVisionModel(InternVisionConfig(**VISION)).save_pretrained(vision)
    (vision / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    audio = folder / "audio"
    audio.mkdir()
    (audio / "train.yaml").write_text(yaml.safe_dump(TRAIN))
    numbers = " ".join(["14.0"] * MELS + ["10"] + ["2000.0"] * MELS)
    # Kaldi's text form: sums, how many, sums of squares, a zero.
    (audio / "global_cmvn").write_text(f"[ {numbers} 0 ]")
    torch.save(init_model({**TRAIN, "cmvn_file": str(audio / "global_cmvn")}).state_dict(),
               audio / "final.pt")  # fmt: skip
    config = VITAQwen2Config(
        **DECODER,
        mm_vision_tower=str(vision),
        mm_audio_encoder=str(audio),
        mm_hidden_size=4 * VISION["hidden_size"],
        mm_projector_type="mlp2x_gelu",
        tokenizer_model_max_length=6200,
        tokenizer_padding_side="right",
        attn_implementation="eager",
    )
    model = VITAQwen2ForCausalLM(config).eval()
    state = model.state_dict()
    for name in sorted(state):
        weight = random_weight(name, tuple(state[name].shape), rng).astype(np.float32)
        state[name] = torch.from_numpy(weight)
    model.load_state_dict(state)
    return model


def sounds(rng: np.random.Generator) -> list[np.ndarray]:
    """Sliding tones in noise, int16."""
    found = []
    for number, samples in enumerate(SAMPLES):
        time = np.arange(samples) / 16_000
        tone = np.sin(2 * np.pi * (200 * (number + 1) + 900 * time) * time) * np.cos(9 * time)
        wave = 0.3 * tone + 0.02 * rng.standard_normal(samples)
        found.append((wave * 2**15).astype(np.int16))
    return found


@torch.no_grad()
def compute(model: torch.nn.Module, torchaudio: types.ModuleType, rng) -> dict[str, torch.Tensor]:
    """Inputs and what the reference makes of them."""
    found: dict[str, torch.Tensor] = {}
    frames = rng.integers(0, 256, (3, 6, 9, 3), dtype=np.uint8).repeat(10, 1).repeat(10, 2)
    frames = (frames // 2 + rng.integers(0, 128, frames.shape)).astype(np.uint8)
    found["in.frames"] = torch.from_numpy(frames)
    pixels = model.process_images(list(frames), model.config)
    found["out.pixel_values"] = pixels
    found["out.vision"] = model.get_vision_tower()(pixels)
    found["out.video_tokens"] = model.encode_images(pixels)

    encoder = model.get_audio_encoder()
    features, for_llm = [], []
    for number, wave in enumerate(sounds(rng)):
        found[f"in.sound.{number}"] = torch.from_numpy(wave)
        scaled = torch.from_numpy(wave.astype(np.float32) / 2**15)[None]
        torchaudio.load = lambda _path, scaled=scaled: (scaled, 16_000)
        feature, tokens = encoder.audio_processor.process("sound")
        features.append(feature)
        for_llm.append(tokens)
        found[f"out.features.{number}"] = feature
    padded = torch.nn.utils.rnn.pad_sequence(features, batch_first=True)
    lengths = torch.tensor([len(feature) for feature in features])
    found["in.lengths"], found["out.audio_lengths"] = lengths, torch.tensor(for_llm)
    layers = encoder.encoder.enc[1]
    for size, left in CHUNKS:
        layers.chunk_size, layers.left_chunks = size, left
        together = encoder(padded.clone(), lengths)["inputs_embeds"]
        for number, feature in enumerate(features):
            alone = encoder(feature[None].clone(), lengths[number : number + 1])["inputs_embeds"][0]
            found[f"out.audio.{size}.{left}.{number}"] = together[number, : for_llm[number]].clone()
            found[f"out.audio_alone.{size}.{left}.{number}"] = alone
    layers.chunk_size, layers.left_chunks = -1, -1

    # A prompt without a frame takes one that is not spliced.
    longest = max(map(len, PROMPTS))
    ids = torch.tensor([[*p, *[0] * (longest - len(p))] for p in PROMPTS])
    mask = torch.tensor([[1] * len(p) + [0] * (longest - len(p)) for p in PROMPTS])
    media = {"images": pixels[[0, 1, 2, 0]],
             "audios": {"audios": padded, "lengths": lengths, "lengths_for_llm": torch.tensor(for_llm)}}  # fmt: skip
    _, positions, attended, _, embeds, _ = model.prepare_inputs_labels_for_multimodal(
        ids, torch.zeros_like(ids), mask, None, None, media["images"], media["audios"], None
    )
    logits = model(inputs_embeds=embeds, attention_mask=attended, position_ids=positions).logits
    for row, length in enumerate(attended.sum(1).tolist()):
        found[f"in.prompt.{row}"] = torch.tensor(PROMPTS[row])
        found[f"out.embeds.{row}"] = embeds[row, :length].clone()
        found[f"out.logits.{row}"] = logits[row, :length].clone()
        first = sum(p.count(IMAGE) or 1 for p in PROMPTS[:row])
        own = {k: v[row : row + 1] for k, v in media["audios"].items()}
        images = media["images"][first : first + max(1, PROMPTS[row].count(IMAGE))]
        found[f"out.greedy.{row}"] = model.generate(
            torch.tensor([PROMPTS[row]]), images=images, audios=own, do_sample=False,
            max_new_tokens=STEPS, pad_token_id=0, eos_token_id=63,
        )[0]  # fmt: skip
    return {name: tensor.contiguous() for name, tensor in found.items()}


def git(repo: Path, *words: str) -> str:
    return subprocess.run(
        ["git", "-C", str(repo), *words], check=True, capture_output=True, text=True
    ).stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repo", type=Path, required=True, help="checkout of the reference")
    parser.add_argument(
        "--kaldi", type=Path, required=True, help="torchaudio's compliance/kaldi.py"
    )
    parser.add_argument("--name", default="eternity-blog/VITA-RL", help="of the repository")
    parser.add_argument("--out", type=Path, default=FIXTURES, help="folder to write to")
    chosen = parser.parse_args()
    if git(chosen.repo, "status", "--porcelain", "--untracked-files=no"):
        print(f"{chosen.repo} differs from its commit; expected a clean checkout")
        return 1
    # The reference reads sys.argv while it builds.
    del sys.argv[1:]
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    torchaudio = prepare_imports(chosen.repo.resolve(), chosen.kaldi)
    with tempfile.TemporaryDirectory() as folder:
        model = build(Path(folder), rng)
        found = compute(model, torchaudio, rng)
    weights = {f"weights.{k}": v.contiguous() for k, v in model.state_dict().items()}
    chosen.out.mkdir(parents=True, exist_ok=True)
    path = chosen.out / "vita_parity.safetensors"
    save_file({**weights, **found}, path)
    record = {
        "made_by": "scripts/vita_parity.py",
        "repository": f"https://github.com/{chosen.name}",
        "commit": git(chosen.repo, "rev-parse", "HEAD"),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "transformers": transformers.__version__,
            "safetensors": safetensors.__version__,
        },
        "kaldi_sha256": hashlib.sha256(chosen.kaldi.read_bytes()).hexdigest(),
        "seed": SEED,
        "decoder": DECODER,
        "vision": VISION,
        "train": TRAIN,
        "chunks": CHUNKS,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    path.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
