"""Runs the driver of MiniCPM-o 2.6 against that model's own code, at a tiny random size on a CPU.

usage: python scripts/minicpm_o_parity.py --code FOLDER --stand-ins FOLDER

The driver is started as the study starts it, as a process that reads and writes JSON lines, and
is held against the code's own ``chat`` and ``forward``. Recorded in ``tests/fixtures`` are the
prompts that ``chat`` made, for the tests that have none of this code.

Of the code that lies with the weights, modelling, processing and image files are public: ``--code``
is a checkout of https://github.com/icyyrain/minicpmo-modified-files, whose only changes are prints
and logs (the logs, which go to a drive C, are cut). Its configuration, tokenizer, vision tower,
resampler and utils are not. ``--stand-ins`` is a checkout of
https://github.com/404805854/minicpmv2.6-onnx, whose files of these names are MiniCPM-V 2.6's; what
MiniCPM-o adds to them is written below (:data:`ADDED`). So this shows that the driver and ``chat``
make the same of the same code, and not that the tower is the published one.

It needs transformers 4.44.2, tokenizers 0.19.1, huggingface_hub 0.36.2, numpy 1.26.4, safetensors,
soundfile, pillow and any torch from 2.3 on::

    pip install --no-deps --target old transformers==4.44.2 tokenizers==0.19.1 \
        huggingface_hub==0.36.2 numpy==1.26.4
    PYTHONPATH=old python scripts/minicpm_o_parity.py --code ... --stand-ins ...
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import wave
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

ROOT = Path(__file__).resolve().parents[1]
DRIVER = ROOT / "emomm_study" / "systems" / "drivers" / "minicpm_o.py"
SEED = 16
QUERIES, PATCH, SCALE = 4, 14, 56
CONFIG = {
    "model_type": "minicpmo", "architectures": ["MiniCPMO"],
    "auto_map": {
        "AutoConfig": "configuration_minicpm.MiniCPMOConfig",
        "AutoModel": "modeling_minicpmo.MiniCPMO",
    },
    "hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "rope_theta": 1e6, "max_position_embeddings": 4096,
    "tie_word_embeddings": False, "query_num": QUERIES, "use_image_id": True,
    "slice_config": {"model_type": "minicpmv", "max_slice_nums": 9},
    "vision_config": {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
        "num_attention_heads": 2, "image_size": 98, "patch_size": PATCH,
    },
    "audio_config": {
        "d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64,
        "num_mel_bins": 80, "max_source_positions": 1500, "vocab_size": 8, "decoder_layers": 1,
        "decoder_attention_heads": 2, "decoder_ffn_dim": 16, "pad_token_id": 0,
    },
    "audio_pool_step": 2, "audio_chunk_length": 1.0, "chunk_input": True, "init_vision": True,
    "init_audio": True, "init_tts": True,
}  # fmt: skip
PREPROCESSOR = {
    "image_processor_type": "MiniCPMVImageProcessor", "processor_class": "MiniCPMOProcessor",
    "feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 80, "hop_length": 160,
    "chunk_length": 30, "n_fft": 400, "nb_max_frames": 3000, "n_samples": 480000,
    "sampling_rate": 16000, "padding_side": "right", "padding_value": 0.0,
    "return_attention_mask": False,
    "auto_map": {
        "AutoProcessor": "processing_minicpmo.MiniCPMOProcessor",
        "AutoImageProcessor": "image_processing_minicpmv.MiniCPMVImageProcessor",
    },
    "max_slice_nums": 9, "scale_resolution": SCALE, "patch_size": PATCH, "use_image_id": True,
    "image_feature_size": QUERIES, "slice_mode": True, "norm_mean": [0.5] * 3,
    "norm_std": [0.5] * 3, "version": 2.6,
}  # fmt: skip
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>", "<image>", "</image>", "<slice>",
    "</slice>", "<image_id>", "</image_id>", "<|audio_start|>", "<|audio_end|>", "<|spk_bos|>",
    "<|spk|>", "<|spk_eos|>", "<|tts_bos|>", "<|tts_eos|>",
)  # fmt: skip
CHAT = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ADDED = {
    "configuration_minicpm.py": """

from transformers import WhisperConfig


class ConditionalChatTTSConfig(PretrainedConfig):
    model_type = "conditional_chattts"


class MiniCPMOConfig(MiniCPMVConfig):
    model_type = "minicpmo"

    def __init__(self, audio_config=None, audio_pool_step=2, audio_chunk_length=1.0,
                 chunk_input=True, init_vision=True, init_audio=True, init_tts=True, **kwargs):
        if isinstance(audio_config, dict):
            audio_config = WhisperConfig(**audio_config)
        self.audio_config, self.tts_config = audio_config or WhisperConfig(), None
        self.audio_pool_step, self.audio_chunk_length = audio_pool_step, audio_chunk_length
        self.chunk_input = chunk_input
        self.init_vision, self.init_audio, self.init_tts = init_vision, init_audio, init_tts
        super().__init__(**kwargs)
""",
    "modeling_navit_siglip.py": """

from transformers.modeling_outputs import BaseModelOutput

_Inner = SiglipVisionTransformer


class SiglipVisionTransformer(_Inner):
    def forward(self, pixel_values, patch_attention_mask, tgt_sizes):
        hidden = self.embeddings(pixel_values, patch_attention_mask, tgt_sizes)
        mask = torch.zeros_like(patch_attention_mask, dtype=hidden.dtype)
        mask = mask.masked_fill(~patch_attention_mask, torch.finfo(hidden.dtype).min)
        hidden = self.encoder(inputs_embeds=hidden, attention_mask=mask[:, None])
        return BaseModelOutput(last_hidden_state=self.post_layernorm(hidden))
""",
    "resampler.py": "",
    "tokenization_minicpmv_fast.py": """


class MiniCPMOTokenizerFast(MiniCPMVTokenizerFast):
    audio_start, audio_end, tts_end = "<|audio_start|>", "<|audio_end|>", "<|tts_eos|>"
    audio_start_id = property(lambda self: self.convert_tokens_to_ids(self.audio_start))
    audio_end_id = property(lambda self: self.convert_tokens_to_ids(self.audio_end))
    spk_start_id = property(lambda self: self.convert_tokens_to_ids("<|spk_bos|>"))
    spk_end_id = property(lambda self: self.convert_tokens_to_ids("<|spk_eos|>"))
""",
    "utils.py": "class NumberToTextConverter: ...\n\n\nclass VoiceChecker: ...\n\n\n"
    "def sentence_end(text): ...\n",
}
"""What is put behind MiniCPM-V's files, for what MiniCPM-o's modelling and processing ask of them."""
SYSTEM = "Say how they feel."
INSTRUCTION = "One letter, A to E.\nScore: a number."
TRANSCRIPT = "Gr\u00fc\u00df Gott, it's fine."
REPLIES = ["A\nScore: -1.0", "C\nScore: 0.0", "E\nScore: 0.8"]
CASES = {"T": ("T", 1.0), "A": ("A", 2.53), "V": ("V", 1.0), "TA": ("TA", 0.7), "TV": ("TV", 1.0),
         "AV": ("AV", 1.0), "TAV": ("TAV", 3.2), "A of 31.4 s": ("A", 31.4)}  # fmt: skip
"""Coalition and seconds of sound."""


def assemble(code: Path, stand_ins: Path, folder: Path) -> None:
    """Put code, configuration and tokenizer where a model's weights lie."""
    for name in ("modeling_minicpmo", "processing_minicpmo", "image_processing_minicpmv"):
        text = (code / f"{name}.py").read_text(encoding="utf-8")
        (folder / f"{name}.py").write_text(re.sub(r"(?m)^ +log_to_txt\(.*\n", "", text))
    for name, more in ADDED.items():
        source = stand_ins / name
        text = source.read_text(encoding="utf-8") if source.exists() else ""
        text = text.replace("from modeling_navit_siglip", "from .modeling_navit_siglip")
        # An older torch.nn.functional handed a name of typing on.
        (folder / name).write_text(f"from typing import List\n{text}\n{more}")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "MiniCPMOTokenizerFast", "chat_template": CHAT,
        "auto_map": {"AutoTokenizer": [None, "tokenization_minicpmv_fast.MiniCPMOTokenizerFast"]},
        "eos_token": "<|im_end|>", "bos_token": "<|im_start|>", "pad_token": "<|endoftext|>",
        "unk_token": "<unk>",
    }  # fmt: skip
    size = tokenizer.get_vocab_size()
    for name, values in (
        ("config.json", {**CONFIG, "vocab_size": size}),
        ("preprocessor_config.json", PREPROCESSOR),
        ("tokenizer_config.json", settings),
    ):
        (folder / name).write_text(json.dumps(values))


def randomise(model: torch.nn.Module) -> None:
    """Weights that are nowhere near the identity."""
    noise = torch.Generator().manual_seed(SEED)
    for name, weight in sorted(model.named_parameters()):
        drawn = torch.randn(weight.shape, generator=noise)
        if weight.ndim > 1:
            drawn = 1.4 * drawn / weight.shape[-1] ** 0.5
        elif name.endswith("bias"):
            drawn = 0.1 * drawn
        else:
            drawn = 1 + 0.2 * drawn
        weight.data.copy_(drawn)


def queries(folder: Path) -> dict:
    """Lines of the protocol, without a mode, by case."""
    rng = np.random.default_rng(SEED)
    frames = []
    for number in range(3):
        pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8).repeat(12, 0).repeat(12, 1)
        frames.append(str(folder / f"{number}.png"))
        Image.fromarray(pixels).save(frames[-1])
    found = {}
    for case, (coalition, seconds) in CASES.items():
        time = np.arange(round(16_000 * seconds)) / 16_000
        tone = 0.3 * np.sin(2 * np.pi * (300 + 200 * np.cos(3 * time)) * time)
        samples = tone + 0.02 * rng.standard_normal(len(time))
        sound = str(folder / f"{len(found)}.wav")
        with wave.open(sound, "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes((samples * 32767).astype("<i2").tobytes())
        prefix = f"Transcript: {TRANSCRIPT}\n" if "T" in coalition else ""
        start = len("Transcript: ")
        found[case] = {
            "id": case, "frames": frames if "V" in coalition else [],
            "sound": sound if "A" in coalition else None,
            "seconds_per_frame": 0.5 if "V" in coalition else 0.0, "system": SYSTEM,
            "text": prefix + INSTRUCTION, "replies": REPLIES,
            "transcript": [start, start + len(TRANSCRIPT)] if prefix else [0, 0],
        }  # fmt: skip
    return found


def content(query: dict) -> list:
    """What a user of ``chat`` hands over: images, samples, text."""
    found = [Image.open(path).convert("RGB") for path in query["frames"]]
    if query["sound"]:
        with wave.open(query["sound"], "rb") as file:
            data = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        found.append(data.astype(np.float32) / 32768)
    return [*found, query["text"]]


@torch.inference_mode()
def asked_of_chat(model, query: dict) -> dict:
    """Prompt, letters, log-probabilities and reply by the code's own ``chat`` and ``forward``."""
    tokenizer, seen = model.processor.tokenizer, {}
    template, generate, decode = tokenizer.apply_chat_template, model.generate, model.llm.generate

    def told(messages, **options):
        seen["turns"] = [dict(message) for message in messages]
        return template(messages, **options)

    def given(**options):
        seen["inputs"] = options
        return generate(**options)

    def continued(**options):
        out = decode(output_logits=True, **options)
        seen["row"] = out.logits[0][0]
        return out

    tokenizer.apply_chat_template, model.generate, model.llm.generate = told, given, continued
    said = model.chat(
        msgs=[
            {"role": "system", "content": query["system"]},
            {"role": "user", "content": content(query)},
        ],
        tokenizer=tokenizer, sampling=False, num_beams=1, repetition_penalty=1.0,
        omni_input=False, max_slice_nums=1, use_image_id=False, max_new_tokens=12,
    )  # fmt: skip
    tokenizer.apply_chat_template, model.generate, model.llm.generate = template, generate, decode
    inputs = seen["inputs"]
    ids, scores = inputs["input_ids"], []
    for reply in query["replies"]:
        own = tokenizer(reply, return_tensors="pt", add_special_tokens=False)["input_ids"]
        whole = torch.cat([ids, own], 1)
        data = {**inputs, "input_ids": whole, "position_ids": torch.arange(whole.shape[1])[None]}
        data.pop("vision_hidden_states")
        logits = model(data).logits[0, ids.shape[1] - 1 : -1].log_softmax(-1)
        scores.append(float(logits.gather(-1, own[0, :, None]).sum()))
    widths = [(int((b[:, 1] - b[:, 0]).sum()) if len(b) else 0)
              for b in (inputs["image_bound"][0], inputs["audio_bounds"][0])]  # fmt: skip
    letters = seen["row"][[tokenizer.convert_tokens_to_ids(letter) for letter in "ABCDE"]]
    return {
        "turns": seen["turns"], "ids": ids[0].tolist(), "letters": letters.tolist(),
        "scores": scores, "reply": said, "video": widths[0], "audio": widths[1],
    }  # fmt: skip


def asked_of_driver(folder: Path, lines: list, dtype: str = "float32") -> tuple:
    """The hello and the answers of the driver in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(DRIVER), "--weights", str(folder), "--trust-remote-code",
         "--device", "cpu", "--dtype", dtype, "--max-new-tokens", "12"],
        input="".join(json.dumps(line) + "\n" for line in lines), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"the driver ended with {done.returncode}:\n{done.stderr}")
    hello, *answers = map(json.loads, done.stdout.splitlines())
    return hello, answers


def commit(folder: Path) -> str:
    asked = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--code", type=Path, required=True, help="checkout of the model's code")
    parser.add_argument("--stand-ins", type=Path, required=True, help="checkout of MiniCPM-V's")
    parser.add_argument("--out", type=Path, default=ROOT / "tests" / "fixtures")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "tiny"
        folder.mkdir()
        assemble(chosen.code, chosen.stand_ins, folder)
        # Imported by the processing file for speech that it does not make here.
        (Path(place) / "stub").mkdir()
        (Path(place) / "stub" / "torchaudio.py").touch()
        sys.path.insert(0, str(Path(place) / "stub"))
        above = [str(Path(place) / "stub"), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(above)
        os.environ["HF_MODULES_CACHE"] = str(Path(place) / "modules")
        transformers.dynamic_module_utils.HF_MODULES_CACHE = os.environ["HF_MODULES_CACHE"]
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
        config.init_tts = False
        model = transformers.AutoModel.from_config(
            config, trust_remote_code=True, attn_implementation="sdpa"
        ).eval()
        randomise(model)
        save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt"})
        asked = queries(Path(place))
        lines = [{**q, "mode": mode} for q in asked.values() for mode in ("letters", "free")]
        hello, answers = asked_of_driver(folder, lines)
        _, rough = asked_of_driver(folder, lines, "bfloat16")
        cases, worst = {}, {"letters": 0.0, "scores": 0.0}
        for (case, query), given, free, *half in zip(
            asked.items(), answers[::2], answers[1::2], rough[::2], rough[1::2], strict=True
        ):
            if said := [answer["error"] for answer in (given, free, *half) if "error" in answer]:
                raise SystemExit(f"{case}: {said}")
            off = np.abs(np.subtract(half[0]["letters"], given["letters"])).max()
            print(f"{case}: letters in bfloat16 are off by {off:.3f} at most")
            own = asked_of_chat(model, query)
            for name in worst:
                error = float(np.abs(np.subtract(given[name], own[name])).max())
                worst[name] = max(worst[name], error)
            held = (free["reply"], given["tokens"]["V"], given["tokens"]["A"])
            if held != (own["reply"], own["video"], own["audio"]):
                raise SystemExit(f"{case}: the driver has {held}, the code {own}")
            cases[case] = {
                "query": {
                    **query, "frames": [Path(path).name for path in query["frames"]],
                    "sound": query["sound"] and Path(query["sound"]).name, "mode": "letters",
                },
                "turns": own["turns"],
                "ids": [[number, len(list(run))] for number, run in groupby(own["ids"])],
                "tokens": given["tokens"], "markers": given["markers"],
                "letters": own["letters"], "scores": own["scores"], "reply": own["reply"],
            }  # fmt: skip
        special = {word: model.processor.tokenizer.convert_tokens_to_ids(word) for word in SPECIAL}
    spread = np.ptp([case["letters"] for case in cases.values()], 0).min()
    print(f"largest errors {worst}; letters differ between cases by {spread:.2f} at least")
    if worst["letters"] > 1e-5 or worst["scores"] > 1e-4:
        return 1
    record = {
        "made_by": "scripts/minicpm_o_parity.py",
        "code": {"repository": "icyyrain/minicpmo-modified-files", "commit": commit(chosen.code)},
        "stand_ins": {
            "repository": "404805854/minicpmv2.6-onnx", "commit": commit(chosen.stand_ins),
            "files": sorted(ADDED),
        },
        "versions": {**hello["versions"], "python": platform.python_version()},
        "choices": hello["choices"], "seed": SEED, "largest_errors": worst, "special": special,
        "cases": cases,
    }  # fmt: skip
    text = json.dumps(record, indent=1, ensure_ascii=False)
    # A pair of numbers, and a list of them, in a line.
    text = re.sub(r"\[\s+([-\d.e]+),\s+([-\d.e]+)\s+\]", r"[\1, \2]", text)
    text = re.sub(r"\],\s+\[", "], [", text)
    (chosen.out / "minicpm_o.json").write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
