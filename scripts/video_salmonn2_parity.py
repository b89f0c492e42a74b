"""Runs the driver of video-SALMONN 2 against its repository's code, at a tiny random size on a CPU.

usage: python scripts/video_salmonn2_parity.py --repo CHECKOUT

CHECKOUT is one of https://github.com/bytedance/video-SALMONN-2. The driver is started as the study
starts it, as a process that reads and writes JSON lines, and is held against the repository's own
way: its data set, its collator and its model's ``forward`` and ``generate``. Recorded in
``tests/fixtures`` are the prompts that these made, for the tests that have none of this code.

What differs from a run of the repository: the language model attends by sdpa and the vision tower
by the repository's eager class, where flash attention is written in; ``torch.cuda.current_device``
answers without a device; the data set's video reader hands it the frames that the driver is given;
and its prompts have the query's system text, where ``preprocess_qwen`` has a default. Of text alone
its data set makes no item (it asks for the length of a sound), so that there the prompt is its
``preprocess`` and the answer its ``generate`` without media.

It needs transformers 4.39.2, tokenizers 0.15.2, huggingface_hub 0.36.2, numpy 1.26.4, accelerate
0.29.3, safetensors, soundfile, decord, pillow and any torch from 2.1 on::

    pip install --no-deps --target old transformers==4.39.2 tokenizers==0.15.2 \
        huggingface_hub==0.36.2 numpy==1.26.4 accelerate==0.29.3
    PYTHONPATH=old python scripts/video_salmonn2_parity.py --repo video-SALMONN-2
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
import types
import wave
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import BertConfig, WhisperConfig, WhisperFeatureExtractor, WhisperModel

ROOT = Path(__file__).resolve().parents[1]
DRIVER = ROOT / "emomm_study" / "systems" / "drivers" / "video_salmonn2.py"
SEED = 16
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
DECODER = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "rope_theta": 1e6, "max_position_embeddings": 32768,
    "tie_word_embeddings": False, "use_cache": True, "mm_hidden_size": 16,
    "mm_projector_type": "mlp2x_gelu", "mm_patch_merge_type": "spatial_unpad",
    "bos_token_id": 256, "eos_token_id": 258, "pad_token_id": 256,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2,
    "image_size": 384, "patch_size": 14,
}  # fmt: skip
SOUND = {
    "d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32,
    "num_mel_bins": 128, "max_source_positions": 1500, "vocab_size": 8, "decoder_layers": 1,
    "decoder_attention_heads": 2, "decoder_ffn_dim": 16, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "decoder_start_token_id": 1, "suppress_tokens": None,
    "begin_suppress_tokens": None,
}  # fmt: skip
AUDIO = {
    "audio_visual": True, "video_fps": 1, "num_speech_query_token": 1, "second_per_window": 0.5,
    "second_stride": 0.5, "window_level_Qformer": True, "use_final_linear": True,
}  # fmt: skip
ARGUMENTS = {
    "pretrain_mm_mlp_adapter": None, "mm_patch_merge_type": "spatial_unpad",
    "mm_projector_type": "mlp2x_gelu",
}  # fmt: skip
MODEL = {
    "image_aspect_ratio": "anyres", "tokenizer_padding_side": "right",
    "tokenizer_model_max_length": 32768, "mm_newline_position": "grid",
    "mm_spatial_pool_stride": 2, "mm_pooling_position": "after", "mm_spatial_pool_mode": "max",
    "modality_max_length": "None",
}  # fmt: skip
"""What ``scripts/run.sh`` and ``scripts/demo.sh`` have ``train.py`` put into the configuration."""
SYSTEM = "Say how they feel."
INSTRUCTION = "One letter, A to E.\nScore: a number."
TRANSCRIPT = "Gr\u00fc\u00df Gott, it's fine."
REPLIES = ["A\nScore: -1.0", "C\nScore: 0.0", "E\nScore: 0.8"]
CASES = {
    "T": ("T", 0, 0.0, 0.0), "A": ("A", 0, 0.0, 2.5), "V": ("V", 3, 1.0, 0.0),
    "TA": ("TA", 0, 0.0, 0.7), "TV": ("TV", 2, 0.5, 0.0), "AV": ("AV", 3, 1.0, 3.4),
    "TAV": ("TAV", 7, 0.5, 3.2), "A of 31.4 s": ("A", 0, 0.0, 31.4),
    "AV of 0.9 s": ("AV", 3, 0.3, 0.6), "AV of 35 s": ("AV", 7, 5.0, 33.0),
    "AV of 12 frames": ("AV", 12, 1.0, 11.8),
}  # fmt: skip
"""Coalition, frames, seconds for each, seconds of sound."""


def tokenizer_files(folder: Path) -> None:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    built = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens(list(SPECIAL))
    built.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "model_max_length": 32768,
        "additional_special_tokens": list(SPECIAL[1:]),
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


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


def build(folder: Path) -> tuple:
    """Folders of the weights and of the towers, as they are published; the model read from them."""
    from llava.model.language_model import video_salmonn_2 as code
    from llava.model.multimodal_encoder import siglip_encoder_flash as vision

    vision.SIGLIP_ATTENTION_CLASSES["flash_attention_2"] = vision.SIGLIP_ATTENTION_CLASSES["eager"]
    weights, whisper, siglip = (folder / name for name in ("weights", "whisper", "siglip"))
    ears = WhisperModel(WhisperConfig(**SOUND))
    randomise(ears)
    ears.save_pretrained(whisper)
    WhisperFeatureExtractor(feature_size=128).save_pretrained(whisper)
    eyes = vision.SigLipVisionModel(vision.SigLipVisionConfig(**VISION))
    randomise(eyes)
    eyes.save_pretrained(siglip)
    weights.mkdir()
    tokenizer_files(weights)
    settings = {**DECODER, "vocab_size": 256 + len(SPECIAL), "add_time_token": True}
    config = code.VideoSALMONN2Config(**settings, mm_vision_tower=str(siglip))
    code.VideoSALMONN2ForCausalLM._supports_sdpa = True
    random = code.VideoSALMONN2ForCausalLM(config, whisper_path=str(whisper), **AUDIO)
    random.get_model().get_vision_tower().load_model()
    randomise(random)
    save_file(random.state_dict(), weights / "model.safetensors", {"format": "pt"})
    # A published configuration says of the tower where it was when the model was trained.
    config.mm_vision_tower = "google/siglip-so400m-patch14-384"
    config.save_pretrained(weights)

    # From here on as train.py has it.
    config = code.VideoSALMONN2Config.from_pretrained(weights)
    config.mm_vision_tower = str(siglip)
    # So that the tower's own weights in the checkpoint are read, as LLaVA-OneVision's base has it.
    config.mm_tunable_parts = "mm_vision_tower,mm_mlp_adapter,mm_language_model"
    model = code.VideoSALMONN2ForCausalLM.from_pretrained(
        weights, config=config, attn_implementation="sdpa", torch_dtype=torch.float32,
        whisper_path=str(whisper), **AUDIO,
    ).eval()  # fmt: skip
    arguments = types.SimpleNamespace(**ARGUMENTS, vision_tower=str(siglip))
    model.get_model().initialize_vision_modules(model_args=arguments, fsdp=None)
    for name, value in MODEL.items():
        setattr(model.config, name, value)
    return model, weights, whisper, siglip


def queries(folder: Path) -> dict:
    """Lines of the protocol, without a mode, by case."""
    rng = np.random.default_rng(SEED)
    found = {}
    for case, (coalition, count, each, seconds) in CASES.items():
        place = folder / str(len(found))
        place.mkdir()
        frames = [str(place / f"{number}.png") for number in range(count)]
        for path in frames:
            pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8).repeat(12, 0).repeat(12, 1)
            Image.fromarray(pixels).save(path)
        sound = None
        if seconds:
            time = np.arange(round(16_000 * seconds)) / 16_000
            tone = 0.3 * np.sin(2 * np.pi * (300 + 200 * np.cos(3 * time)) * time)
            samples = tone + 0.02 * rng.standard_normal(len(time))
            sound = str(place / "sound.wav")
            with wave.open(sound, "wb") as file:
                file.setparams((1, 2, 16_000, 0, "NONE", ""))
                file.writeframes((samples * 32767).astype("<i2").tobytes())
        prefix = f"Transcript: {TRANSCRIPT}\n" if "T" in coalition else ""
        start = len("Transcript: ")
        found[case] = {
            "id": case, "frames": frames, "sound": sound, "seconds_per_frame": each,
            "system": SYSTEM, "text": prefix + INSTRUCTION, "replies": REPLIES,
            "transcript": [start, start + len(TRANSCRIPT)] if prefix else [0, 0],
        }  # fmt: skip
    return found


class Frames:
    """The frames of a query in the place of decord's reader of a video file."""

    def __init__(self, paths: str, **_) -> None:
        self.frames, self.rate = json.loads(paths)

    def __len__(self) -> int:
        return len(self.frames)

    def get_avg_fps(self) -> float:
        return self.rate

    def get_batch(self, which: list):
        shown = np.stack([np.array(Image.open(self.frames[at]).convert("RGB")) for at in which])
        return types.SimpleNamespace(asnumpy=lambda: shown)


def batch(query: dict, model, tokenizer, whisper: Path) -> dict:
    """What the repository's data set and collator make of a query."""
    from llava import conversation
    from llava.dataset import av_dataset, preprocess_utils

    conversation.default_conversation = conversation.conv_templates["qwen_1_5"]
    av_dataset.VideoReader = Frames
    whole = preprocess_utils.preprocess_qwen
    if not isinstance(whole, functools.partial):
        preprocess_utils.preprocess_qwen = functools.partial(whole, system_message=SYSTEM)
    text, turn = query["text"], {"from": "gpt", "value": ""}
    each = query["seconds_per_frame"] or 1.0
    settings = types.SimpleNamespace(
        audio_processor=str(whisper), max_time=110, video_fps=1 / each, is_multimodal=True,
        image_processor=model.get_vision_tower().image_processor, mm_use_im_start_end=False,
    )  # fmt: skip
    if not query["frames"] and not query["sound"]:
        spoken = [[{"from": "human", "value": text}, turn]]
        made = preprocess_utils.preprocess(spoken, tokenizer, has_image=False)
        return {"input_ids": made["input_ids"][:, :-2]}
    item = {"conversations": [{"from": "human", "value": f"<image>\n{text}"}, turn]}
    if query["frames"]:
        item["video"] = json.dumps([query["frames"], 1 / each])
    if query["sound"]:
        item["audio"] = query["sound"]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump([item], file)
        file.flush()
        found = av_dataset.LazyAVSupervisedDataset(file.name, tokenizer, settings, is_test=True)
    made = av_dataset.DataCollatorForAVSupervisedDataset(tokenizer)([found[0]])
    # What the demonstration takes out before it generates, and what only training has.
    for name in ("ids", "prompts", "ce_only", "texts", "ori_item", "labels"):
        made.pop(name)
    return {name: value for name, value in made.items()
            if not name.startswith(("reject", "gt", "dpo"))}  # fmt: skip


@torch.inference_mode()
def asked_of_repository(model, tokenizer, query: dict, whisper: Path) -> dict:
    """Prompt, letters, log-probabilities and reply by the repository's own code."""
    made = batch(query, model, tokenizer, whisper)
    ids = made.pop("input_ids")
    seen = made.pop("attention_mask", torch.ones_like(ids))
    out = model.generate(
        input_ids=ids, attention_mask=seen, do_sample=False, num_beams=1, max_new_tokens=12,
        output_scores=True, return_dict_in_generate=True, eos_token_id=258, pad_token_id=258,
        repetition_penalty=1.0, **made,
    )  # fmt: skip
    row, scores = out.scores[0][0], []
    for reply in query["replies"]:
        own = torch.tensor([tokenizer(reply).input_ids])
        whole = torch.cat([ids, own], 1)
        if made:
            logits = model(
                input_ids=whole, attention_mask=torch.ones_like(whole), use_cache=False, **made
            ).logits
        else:
            embeds = model.get_model().embed_tokens(whole)
            logits = model(inputs_embeds=embeds, use_cache=False).logits
        end = logits.shape[1] - 1
        after = logits[0, end - own.shape[1] : end].log_softmax(-1)
        scores.append(float(after.gather(-1, own[0, :, None]).sum()))
    places = logits.shape[1] - own.shape[1] - int((ids != -200).sum())
    return {
        "ids": ids[0].tolist(), "places": places, "scores": scores,
        "pieces": sum(made.get("org_groups", [])),
        "letters": row[tokenizer.convert_tokens_to_ids(list("ABCDE"))].tolist(),
        "reply": tokenizer.decode(out.sequences[0], skip_special_tokens=True),
    }  # fmt: skip


def asked_of_driver(repo: Path, folders: list, lines: list, dtype: str = "float32") -> tuple:
    """The hello and the answers of the driver in a process of its own."""
    weights, whisper, siglip = map(str, folders)
    done = subprocess.run(
        [sys.executable, str(DRIVER), "--repo", str(repo), "--weights", weights, "--whisper",
         whisper, "--siglip", siglip, "--device", "cpu", "--dtype", dtype,
         "--max-new-tokens", "12"],
        input="".join(json.dumps(line) + "\n" for line in lines), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"the driver ended with {done.returncode}:\n{done.stderr}")
    print(next(line for line in done.stderr.splitlines() if "without a place" in line))
    hello, *answers = map(json.loads, done.stdout.splitlines())
    return hello, answers


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repo", type=Path, required=True, help="checkout of the repository")
    parser.add_argument("--out", type=Path, default=ROOT / "tests" / "fixtures")
    chosen = parser.parse_args()
    repo, out = chosen.repo.resolve(), chosen.out.resolve()
    torch.set_num_threads(1)
    torch.cuda.current_device = lambda: 0
    sys.path.insert(0, str(repo))
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        # The repository asks the hub for it by this name; it is the class's own configuration.
        BertConfig().save_pretrained("bert-base-uncased")
        model, *folders = build(Path(place))
        shim = Path(place, "shim")
        shim.mkdir()
        (shim / "sitecustomize.py").write_text(
            "import torch\n\ntorch.cuda.current_device = lambda: 0\n"
        )
        above = [str(shim), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(above)
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folders[0], padding_side="right")
        model.tokenizer = tokenizer
        asked = queries(Path(place))
        os.rename("bert-base-uncased", "bert")
        lines = [{**q, "mode": mode} for q in asked.values() for mode in ("letters", "free")]
        still = {**asked["AV"], "frames": asked["AV"]["frames"][:1], "mode": "letters"}
        hello, answers = asked_of_driver(repo, folders, [*lines, still])
        refused = answers.pop()["error"]
        _, rough = asked_of_driver(repo, folders, lines, "bfloat16")
        cases, worst = {}, {"letters": 0.0, "scores": 0.0}
        for (case, query), given, free, *half in zip(
            asked.items(), answers[::2], answers[1::2], rough[::2], rough[1::2], strict=True
        ):
            if said := [answer["error"] for answer in (given, free, *half) if "error" in answer]:
                raise SystemExit(f"{case}: {said}")
            off = np.abs(np.subtract(half[0]["letters"], given["letters"])).max()
            print(f"{case}: letters in bfloat16 are off by {off:.3f} at most")
            own = asked_of_repository(model, tokenizer, query, folders[1])
            for name in worst:
                error = float(np.abs(np.subtract(given[name], own[name])).max())
                worst[name] = max(worst[name], error)
            held = (free["reply"], given["tokens"]["V"] + given["tokens"]["A"])
            if held != (own["reply"], own["places"]):
                raise SystemExit(f"{case}: the driver has {held}, the repository {own}")
            cases[case] = {
                "query": {
                    **query, "frames": [Path(path).name for path in query["frames"]],
                    "sound": query["sound"] and Path(query["sound"]).name, "mode": "letters",
                },
                "ids": [[number, len(list(run))] for number, run in groupby(own["ids"])],
                "places": own["places"], "pieces": own["pieces"], "tokens": given["tokens"], "markers": given["markers"],
                "letters": own["letters"], "scores": own["scores"], "reply": own["reply"],
            }  # fmt: skip
    spread = np.ptp([case["letters"] for case in cases.values()], 0).min()
    print(f"largest errors {worst}; letters differ between cases by {spread:.2f} at least")
    if worst["letters"] > 1e-5 or worst["scores"] > 1e-4:
        return 1
    asked_git = ["git", "-C", str(repo), "rev-parse", "HEAD"]
    record = {
        "made_by": "scripts/video_salmonn2_parity.py",
        "repository": "bytedance/video-SALMONN-2",
        "commit": subprocess.check_output(asked_git, text=True).strip(),
        "code_sha256": hello["code_sha256"], "versions": hello["versions"],
        "choices": hello["choices"], "seed": SEED, "largest_errors": worst,
        "special": {word: 256 + number for number, word in enumerate(SPECIAL)},
        "refused": refused, "cases": cases,
    }  # fmt: skip
    text = json.dumps(record, indent=1, ensure_ascii=False)
    # A pair of numbers, and a list of them, in a line.
    text = re.sub(r"\[\s+([-\d.e]+),\s+([-\d.e]+)\s+\]", r"[\1, \2]", text)
    text = re.sub(r"\],\s+\[", "], [", text)
    (out / "video_salmonn2.json").write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
