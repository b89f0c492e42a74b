"""VITA-1.5 as written here computes what the authors' code computes, and reads what they publish.

The fixture has random weights, inputs, and outputs of the reference: ``scripts/vita_parity.py``.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import AutoConfig, InternVLVisionConfig, PreTrainedTokenizerFast

from emomm_study.paths import ROOT
from emomm_study.systems.vita import audio as whale, modeling
from emomm_study.systems.vita.audio import audio_tokens, chunk_mask, subsampled
from emomm_study.systems.vita.configuration import ALL, VitaConfig, WhaleConfig
from emomm_study.systems.vita.load import AUDIO_FOLDER, load_vita, published_config
from emomm_study.systems.vita.modeling import VitaForConditionalGeneration
from emomm_study.systems.vita.processing import VitaProcessor

FIXTURE = ROOT / "tests" / "fixtures" / "vita_parity.safetensors"
RECORD = json.loads(FIXTURE.with_suffix(".json").read_text(encoding="utf-8"))
CHUNKS = [tuple(pair) for pair in RECORD["chunks"]]
IMAGE, AUDIO = -200, -500
CLOSE = 1e-5
"""Largest difference allowed, as a share of the largest value."""

PUBLISHED = {
    "architectures": ["VITAQwen2ForCausalLM"],
    "model_type": "vita-Qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "sliding_window": None,
    "use_sliding_window": False,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "torch_dtype": "bfloat16",
    "image_aspect_ratio": "square",
    "mm_projector_type": "mlp2x_gelu",
    "mm_hidden_size": 4096,
    "mm_vision_tower": "OpenGVLab/InternViT-300M-448px",
    "mm_audio_encoder": "VITA-MLLM/VITA-1.5_AudioEnc",
    "mm_projector_lr": None,
    "tokenizer_model_max_length": 6200,
    "tokenizer_padding_side": "right",
    "use_mm_proj": True,
    "use_s2": False,
    "unfreeze_vision_tower": True,
    "freeze_audio_encoder": True,
}
"""What is known of VITA-1.5's config.json."""


def full_size_train(**layers) -> dict:
    """A train.yaml of VITA-1.5's sizes, its layers' settings changed as asked."""
    train = copy.deepcopy(RECORD["train"])
    parts = train["encoder_conf"]["para_conf"]
    train["encoder_conf"]["overview_conf"]["encoder-output-dim"] = 1024
    parts["subsampling"]["subsampling-output-dim"] = 1024
    parts["transformer"] |= {
        "transformer-input-dim": 1024,
        "transformer-output-dim": 1024,
        "transformer-attention-dim": 1024,
        "transformer-attention-heads": 16,
        "transformer-linear-units": 4096,
        "transformer-num-blocks": 24,
        **layers,
    }
    train["model_conf"] |= {"enc_out_dim": 1024, "llm_embed_dim": 3584}
    return train


@pytest.fixture(scope="module")
def found() -> dict[str, torch.Tensor]:
    return load_file(FIXTURE)


def tiny_vision() -> InternVLVisionConfig:
    sizes = RECORD["vision"]
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
             "image_size", "patch_size")  # fmt: skip
    return InternVLVisionConfig(attention_bias=True, **{name: sizes[name] for name in names})


def tiny_published() -> dict:
    """A config.json as published, for the fixture's sizes."""
    known = {"mm_hidden_size": 4 * RECORD["vision"]["hidden_size"], "torch_dtype": "float32"}
    return PUBLISHED | RECORD["decoder"] | known


def weights(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The fixture's weights under their published names."""
    return {n.removeprefix("weights."): w for n, w in found.items() if n.startswith("weights.")}


@pytest.fixture(scope="module")
def model(found, tmp_path_factory) -> VitaForConditionalGeneration:
    """The port with the fixture's weights, loaded under their published names."""
    folder = tmp_path_factory.mktemp("vita")
    config = published_config(tiny_published(), RECORD["train"], vision=tiny_vision())
    config.save_pretrained(folder)
    save_file(weights(found), folder / "model.safetensors", metadata={"format": "pt"})
    model, info = VitaForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


def embed(model, found, row: int) -> torch.Tensor:
    """A prompt's embeddings, media in the places of their marks."""
    ids = found[f"in.prompt.{row}"]
    before = sum(int((found[f"in.prompt.{r}"] == IMAGE).sum()) for r in range(row))
    frames = iter(model.get_video_features(found["out.pixel_values"])[before:])
    features = found[f"out.features.{row}"]
    sound = model.get_audio_features(features[None], torch.tensor([len(features)]))[0]
    parts = [
        next(frames) if i == IMAGE else sound if i == AUDIO
        else model.get_input_embeddings()(torch.tensor([i]))
        for i in ids.tolist()
    ]  # fmt: skip
    return torch.cat(parts)


@torch.no_grad()
def errors(model, found, chunks=CHUNKS) -> dict[str, float]:
    """Largest difference of every output, as a share of its largest value."""
    made = {"vision": model.model.vision_tower(found["out.pixel_values"])}
    made["video_tokens"] = model.get_video_features(found["out.pixel_values"])
    features = [found[f"out.features.{n}"] for n in range(3)]
    padded = torch.nn.utils.rnn.pad_sequence(features, batch_first=True)
    audio = model.config.audio_config
    before = audio.chunk_size, audio.left_chunks
    for size, left in chunks:
        audio.chunk_size, audio.left_chunks = size, left
        for n, tokens in enumerate(model.get_audio_features(padded, found["in.lengths"])):
            made[f"audio.{size}.{left}.{n}"] = tokens
            alone = model.get_audio_features(features[n][None], found["in.lengths"][n : n + 1])
            made[f"audio_alone.{size}.{left}.{n}"] = alone[0]
    audio.chunk_size, audio.left_chunks = before
    for row in range(3):
        made[f"embeds.{row}"] = embed(model, found, row)
        inputs = found[f"out.embeds.{row}"][None]
        made[f"logits.{row}"] = model(inputs_embeds=inputs).logits[0]
    differences = {}
    for name, tensor in made.items():
        expected = found[f"out.{name}"]
        assert tensor.shape == expected.shape, name
        differences[name] = float((tensor - expected).abs().max() / expected.abs().max())
    return differences


def test_every_part_computes_what_the_reference_computes(model, found):
    differences = errors(model, found)
    assert len(differences) == 2 + 2 * 3 * len(CHUNKS) + 6
    assert max(differences.values()) < CLOSE, differences


def test_the_record_is_of_this_fixture_and_says_what_made_it():
    assert hashlib.sha256(FIXTURE.read_bytes()).hexdigest() == RECORD["sha256"]
    assert RECORD["repository"].startswith("https://github.com/")
    assert len(RECORD["commit"]) == 40
    assert RECORD["versions"]["transformers"] == "4.41.1"


def test_greedy_tokens_are_the_reference_s_alone_and_left_padded_in_a_batch(model, found):
    rows = [found[f"out.embeds.{row}"] for row in range(3)]
    longest = max(map(len, rows))
    embeds = torch.stack(
        [torch.nn.functional.pad(r, (0, 0, longest - len(r), 0), value=3.0) for r in rows]
    )
    mask = torch.tensor([[0] * (longest - len(r)) + [1] * len(r) for r in rows])
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": 63}
    together = model.generate(inputs_embeds=embeds, attention_mask=mask, **settings)
    for row, own in enumerate(rows):
        alone = model.generate(inputs_embeds=own[None], **settings)[0]
        assert alone.tolist() == found[f"out.greedy.{row}"].tolist() == together[row].tolist()


def shifted(self, query, position):
    """The term of position with Transformer-XL's relative shift."""
    scores = (query + self.pos_bias_v[:, None]) @ position.mT
    padded = torch.nn.functional.pad(scores, (1, 0))
    b, h, t, _ = scores.shape
    return padded.view(b, h, t + 1, t)[:, :, 1:].reshape(b, h, t, t)


def unscaled(self, pixel_values):
    return modeling.joined(self.vision_tower(pixel_values).last_hidden_state[:, 1:])


def halved_last(self, pixel_values):
    return self.model.mm_projector(self.model.vision_tower(pixel_values)) * modeling.SCALE


def other_order(patches):
    side = round(patches.shape[1] ** 0.5)
    groups = patches.unflatten(1, (side // 2, 2, side // 2, 2))
    return groups.permute(0, 1, 3, 4, 2, 5).flatten(3).flatten(1, 2)


def mask_with(shift: int = 0, more_left: int = 0, ahead: int = 0):
    def mask(frames, size, left, device=None):
        if size == ALL:
            return chunk_mask(frames, size, left, device)
        chunk = (torch.arange(frames) + shift) // size
        behind = chunk[:, None] - chunk
        return (behind >= -ahead) & ((behind <= left + more_left) if left != ALL else True)

    return mask


MUTATIONS = {
    "a relative shift": ("audio", lambda m, p: p.setattr(whale.Attention, "by_position", shifted)),
    "projecting before the scaling by half": (
        "video_tokens",
        lambda m, p: (
            p.setattr(modeling.VisionTower, "forward", unscaled),
            p.setattr(VitaForConditionalGeneration, "get_video_features", halved_last),
        ),
    ),
    "patches joined in another order": (
        "vision", lambda m, p: p.setattr(modeling, "joined", other_order)),
    "the adapter's epsilon 1e-5": (
        "audio", lambda m, p: p.setattr(m.model.audio_encoder.adpter.bn2, "eps", 1e-5)),
    "the adapter padded at the left": (
        "audio",
        lambda m, p: p.setattr(
            whale.functional, "pad",
            lambda x, pad, real=torch.nn.functional.pad: real(x, (pad[1], pad[0]))),
    ),
    "chunks that begin a frame late": (
        "audio.4", lambda m, p: p.setattr(whale, "chunk_mask", mask_with(shift=1))),
    "one chunk more to the left": (
        "audio.4.2", lambda m, p: p.setattr(whale, "chunk_mask", mask_with(more_left=1))),
    "one chunk ahead": (
        "audio.4", lambda m, p: p.setattr(whale, "chunk_mask", mask_with(ahead=1))),
    "the vision norms' epsilon 1e-5": (
        "vision", lambda m, p: change_eps(p, m.model.vision_tower, 1e-5)),
    "the audio norms' epsilon 1e-6": (
        "audio", lambda m, p: change_eps(p, m.model.audio_encoder.encoder, 1e-6)),
    "no norm after the audio layers": (
        "audio",
        lambda m, p: p.setattr(m.model.audio_encoder.encoder.enc[1].after_norm, "forward", lambda x: x)),
    "positions from one": (
        "audio",
        lambda m, p: p.setattr(
            whale, "sinusoids",
            lambda n, width, device=None, real=whale.sinusoids: real(n + 1, width)[1:]),
    ),
    "an approximate GELU in the projector": (
        "video_tokens", lambda m, p: p.setattr(m.model.mm_projector[1], "approximate", "tanh")),
}  # fmt: skip
"""What is changed in the port, and outputs that have to tell."""


def change_eps(patch, module, eps):
    for norm in module.modules():
        if isinstance(norm, torch.nn.LayerNorm):
            patch.setattr(norm, "eps", eps)


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_fixture_catches(name, model, found, monkeypatch):
    outputs, mutate = MUTATIONS[name]
    mutate(model, monkeypatch)
    differences = errors(model, found, chunks=[(ALL, ALL), (4, 2)])
    told = {n: d for n, d in differences.items() if n.startswith(outputs)}
    assert told
    # One of the three sounds may be too short to have a chunk further left.
    assert max(told.values()) > 5 * CLOSE, told


def test_the_published_names_load_and_are_written_again(model, found, tmp_path):
    model.save_pretrained(tmp_path)
    written = load_file(tmp_path / "model.safetensors")
    expected = weights(found)
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], weight) for name, weight in expected.items())


def test_a_model_built_by_sizes_is_written_under_the_published_names(found, tmp_path):
    config = VitaConfig(**RECORD["decoder"], vision_config={"hidden_size": 16, "image_size": 28,
        "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24},
        audio_config={"hidden_size": 16, "subsampling_channels": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 24, "adapter_size": 32})  # fmt: skip
    assert config.vision_config.attention_bias
    VitaForConditionalGeneration(config).save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as opened:
        assert set(opened.keys()) < set(weights(found))
    assert type(AutoConfig.from_pretrained(tmp_path)) is VitaConfig


def test_the_decoder_s_configuration_is_the_model_s_and_the_towers_have_their_own(model):
    assert model.get_decoder() is model.model
    assert model.get_decoder().config is model.config
    assert model.config.get_text_config(decoder=True) is model.config
    assert model.model.vision_tower.vision_tower.config is not model.config


def test_half_precision_keeps_the_features_mean_in_single(model, tmp_path):
    model.save_pretrained(tmp_path)
    half = VitaForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert half.model.audio_encoder.encoder.global_cmvn.mean.dtype == torch.float32
    features = torch.full((1, 20, 80), 14.0)
    for tokens in (
        half.get_audio_features(features, torch.tensor([20]))[0],
        half.get_video_features(torch.zeros(1, 3, 56, 56))[0],
    ):
        assert tokens.dtype == torch.bfloat16
        assert tokens.isfinite().all()


def test_padding_in_a_batch_changes_no_sound_s_tokens(model, found):
    lengths = torch.tensor([98, 60, 39, 7])
    batch = torch.full((4, 130, 80), 1e4)
    for row, n in enumerate(lengths.tolist()):
        batch[row, :n] = found["out.features.0"][:n]
    audio = model.config.audio_config
    with torch.no_grad():
        for audio.chunk_size, audio.left_chunks in ((4, 2), (1, 0), (ALL, ALL)):
            for row, tokens in enumerate(model.get_audio_features(batch, lengths)):
                own = batch[row : row + 1, : lengths[row]]
                alone = model.get_audio_features(own, lengths[row : row + 1])[0]
                torch.testing.assert_close(tokens, alone, rtol=0, atol=1e-5)


def test_lengths_beyond_2048_frames_are_counted_and_not_rounded(model):
    frames = 4102
    assert float(torch.tensor(float(frames)).half()) == 4104
    assert (audio_tokens(frames), audio_tokens(4104)) == (512, 513)
    features = torch.zeros(1, 4104, 80)
    with torch.no_grad():
        assert len(model.get_audio_features(features, torch.tensor([frames]))[0]) == 512
    with pytest.raises(TypeError, match=r"integers; got torch\.float16"):
        model.get_audio_features(features, torch.tensor([frames]).half())


@pytest.mark.parametrize(
    ("features", "lengths", "said"),
    [
        (torch.zeros(2, 20, 80), [20, 6], "sound 1 has 6 frames of 20; expected 7 or more"),
        (torch.zeros(1, 20, 80), [21], "sound 0 has 21 frames of 20"),
        (torch.zeros(20, 80), [20], r"got \(20, 80\) and \(1,\)"),
    ],
)
def test_sounds_that_cannot_be_are_refused(features, lengths, said, model):
    with pytest.raises(ValueError, match=said):
        model.get_audio_features(features, torch.tensor(lengths))


def test_tokens_are_counted_as_the_convolutions_count(found):
    convolution = torch.nn.Conv1d(1, 1, 3, stride=2)
    adapter = torch.nn.Conv1d(1, 1, 5, stride=2)
    for frames in range(7, 60):
        quarter = convolution(convolution(torch.zeros(1, 1, frames)))
        assert quarter.shape[-1] == subsampled(frames)
        made = adapter(torch.nn.functional.pad(quarter, (0, 4)))
        assert made.shape[-1] == audio_tokens(frames) > 0
    assert audio_tokens(6) == 0
    assert found["out.audio_lengths"].tolist() == audio_tokens(found["in.lengths"]).tolist()
    assert VitaProcessor(None).tokens_of_sound(round(3.54 * 16_000)) == 44


def test_a_chunk_sees_itself_whole_and_so_many_to_its_left():
    seen = chunk_mask(7, 3, 1)
    expected = [[0, 1, 2]] * 3 + [[0, 1, 2, 3, 4, 5]] * 3 + [[3, 4, 5, 6]]
    assert [row.nonzero()[:, 0].tolist() for row in seen] == expected
    assert chunk_mask(7, 3, 0)[6].nonzero().tolist() == [[6]]
    assert chunk_mask(7, 3, ALL)[6].all()
    assert chunk_mask(7, ALL, ALL).all()
    for sizes in ({"chunk_size": 0}, {"chunk_size": 4, "left_chunks": -2}):
        with pytest.raises(ValueError, match="chunk_size is 1 or more"):
            WhaleConfig(**sizes)


def test_features_are_kaldi_s():
    """A second implementation, in double precision and without a loop."""
    rng = np.random.default_rng(1)
    wave = np.cumsum(rng.normal(size=8_000)) * 1e-3 + 0.01 * rng.normal(size=8_000) + 0.02
    frames = np.lib.stride_tricks.sliding_window_view(wave * 2**15, 400)[::160]
    frames = frames - frames.mean(1, keepdims=True)
    frames = frames - 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], 1)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)
    power = np.abs(np.fft.rfft(frames * hann**0.85, 512))[:, :256] ** 2
    mel = 1127 * np.log1p(np.arange(256) * 16_000 / 512 / 700)
    corners = np.linspace(1127 * math.log1p(20 / 700), 1127 * math.log1p(8_000 / 700), 82)
    up = (mel[:, None] - corners[:-2]) / np.diff(corners)[:-1]
    down = (corners[2:] - mel[:, None]) / np.diff(corners)[1:]
    energies = power @ np.clip(np.minimum(up, down), 0, None)
    expected = np.log(np.maximum(energies, np.finfo(np.float32).eps))
    made = VitaProcessor(None).sound(wave.astype(np.float32))
    assert made.dtype == torch.float32
    assert made.shape == expected.shape == (48, 80)
    assert np.abs(made.numpy() - expected).max() < 1e-3


def test_features_are_the_reference_s_and_of_real_size(found):
    for n in range(3):
        wave = found[f"in.sound.{n}"].numpy().astype(np.float32) / 2**15
        made = VitaProcessor(None).sound(wave)
        assert (made - found[f"out.features.{n}"]).abs().max() < 1e-3
        assert torch.equal(made, VitaProcessor(None).sound(wave))


@pytest.mark.parametrize(
    ("wave", "said"),
    [
        (np.zeros(399, np.float32), "399 samples; expected 400 or more, .* window of 25 ms"),
        (np.zeros((2, 800), np.float32), r"\(samples,\) of floats; got \(2, 800\)"),
        (np.zeros(800, np.int16), "of floats; got .* int16"),
        (np.full(800, np.nan, np.float32), "not finite"),
    ],
)
def test_waves_that_have_no_features_are_refused(wave, said):
    with pytest.raises(ValueError, match=said):
        VitaProcessor(None).sound(wave)


@pytest.mark.parametrize("size", [(720, 1280), (480, 854), (91, 60), (448, 448), (57, 1000)])
def test_frames_are_what_pillow_makes_and_the_reference_s(size):
    height, width = size
    frames = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    made = VitaProcessor(None).frames(frames)
    assert made.dtype == torch.float32
    assert made.shape == (2, 3, 448, 448)
    resized = [int(448 * side / min(size)) for side in size]
    image = Image.fromarray(frames[1]).resize(resized[::-1], Image.Resampling.BICUBIC)
    top, left = ((side - 448) // 2 for side in resized)
    kept = np.asarray(image)[top : top + 448, left : left + 448] / 255
    expected = (kept - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(made[1].permute(1, 2, 0).numpy(), expected, atol=1e-6)


def test_the_reference_s_frames_are_ours(found):
    made = VitaProcessor(None, side=56).frames(found["in.frames"].numpy())
    assert (made - found["out.pixel_values"]).abs().max() < 1e-6


@pytest.mark.parametrize("size", [(480, 854), (720, 1280), (100, 61)])
def test_what_is_seen_of_a_frame_is_where_its_pixels_come_from(size):
    height, width = size
    rows = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    columns = np.linspace(0, 255, width)[None].repeat(height, 0)
    frame = np.stack([rows, columns, columns], -1).astype(np.uint8)
    processor = VitaProcessor(None)
    made = processor.frames(frame[None])[0]
    mean, std = np.array([0.485, 0.456]), np.array([0.229, 0.224])
    grey = (made[:2].numpy() * std[:, None, None] + mean[:, None, None]) * 255
    top, left, high, wide = processor.seen(height, width)
    assert min(high, wide) == pytest.approx(min(size))
    centre = (top + high / 2) / height * 255, (left + wide / 2) / width * 255
    assert grey[:, 223:225, 223:225].mean((1, 2)) == pytest.approx(centre, abs=1.5)
    edge = (top + high / 448) / height * 255, (left + wide / 448) / width * 255
    assert (grey[0, 0, 0], grey[1, 0, 0]) == pytest.approx(edge, abs=2.5)


def test_frames_of_another_form_are_refused():
    for frames in (np.zeros((2, 3, 8, 8), np.uint8), np.zeros((2, 8, 8, 3), np.float32)):
        with pytest.raises(ValueError, match=r"\(N, H, W, 3\) uint8; got"):
            VitaProcessor(None).frames(frames)


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_whole_model_has_the_published_numbers_of_parameters():
    """Built without memory; public records of the reference give what it counts, in 2^20."""
    config = published_config(PUBLISHED, full_size_train())
    with torch.device("meta"):
        model = VitaForConditionalGeneration(config)
    vision = count(model.model.vision_tower)
    projector = count(model.model.mm_projector)
    encoder = count(model.model.audio_encoder.encoder)
    adapter = count(model.model.audio_encoder.adpter)
    decoder = count(model) - vision - projector - encoder - adapter
    assert round(vision / 1e6, 1) == 304.0
    assert round(vision / 2**20, 1) == 289.9
    assert round(projector / 1e6, 1) == 27.5
    assert round(encoder / 2**20, 1) == 341.4
    # Qwen2.5-7B, with as many rows as its configuration says.
    assert decoder == 7_615_616_512
    assert round(adapter / 1e6, 1) == 17.8
    # The audio folder's 1.5 GB are the encoder and the adapter in single precision.
    assert round(4 * (encoder + adapter) / 1e9, 1) == 1.5
    # The repository's 19.6 GB hold that folder, four shards, and a speech decoder of unknown size.
    # All weights once in bfloat16, at 151,665 tokens, leave 1.5 GB for it; with towers, projector
    # and audio encoder in single precision nothing is left. Sizes alone do not tell which.
    rows = 2 * (152_064 - 151_665) * 3584
    towers = vision + projector + encoder + adapter
    shards = 2 * (decoder - rows + towers) / 1e9
    assert round(shards, 1) == 16.6
    assert round(19.6 - 1.5 - shards, 1) == 1.5
    assert round(shards + 2 * towers / 1e9 + 1.5, 1) == 19.6
    assert VitaProcessor.for_config(None, config).tokens_of_frame == 256


# Loading a folder.


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    words = {f"w{n}": n for n in range(60)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")), pad_token="w0"
    )


@pytest.fixture
def folder(found, tokenizer, tmp_path) -> Path:
    """A published folder in small: the reference's files, the towers' in folders of their own."""
    root = tmp_path / "VITA"
    (root / AUDIO_FOLDER).mkdir(parents=True)
    tower = tmp_path / "InternViT"
    tower.mkdir()
    write(tower / "config.json", RECORD["vision"] | {"model_type": "intern_vit_6b"})
    images = {"crop_size": 56, "do_center_crop": True, "do_normalize": True, "do_resize": True,
              "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
              "resample": 3, "size": 56}  # fmt: skip
    write(tower / "preprocessor_config.json", images)
    write(root / "config.json", tiny_published() | {"mm_vision_tower": str(tower)})
    (root / AUDIO_FOLDER / "train.yaml").write_text(yaml.safe_dump(RECORD["train"]))
    put(root, weights(found))
    tokenizer.save_pretrained(root)
    return root


def put(root: Path, held: dict[str, torch.Tensor]) -> None:
    """Write weights in two shards, as large ones are published."""
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    where = {name: shards[n % 2] for n, name in enumerate(sorted(held))}
    for shard in shards:
        own = {name: held[name] for name in held if where[name] == shard}
        save_file(own, root / shard, metadata={"format": "pt"})
    write(root / "model.safetensors.index.json", {"metadata": {}, "weight_map": where})


def write(path: Path, values: dict) -> None:
    path.write_text(json.dumps(values), encoding="utf-8")


def change(path: Path, **values) -> None:
    write(path, json.loads(path.read_text(encoding="utf-8")) | values)


def test_a_published_folder_is_read_whole_and_its_vocabulary_cut_to_the_tokenizer_s(folder, found):
    change(folder / "config.json", vocab_size=99)
    model, processor = load_vita(folder)
    assert not model.training
    assert load_vita(folder, dtype="bfloat16")[0].dtype == torch.bfloat16
    assert len(processor.tokenizer) == 60
    assert model.config.vocab_size == len(model.lm_head.weight) == 60
    assert torch.equal(
        model.get_input_embeddings().weight, weights(found)["model.embed_tokens.weight"][:60]
    )
    assert (processor.side, processor.tokens_of_frame) == (56, 4)
    assert (model.config.audio_config.chunk_size, model.config.audio_config.left_chunks) == (-1, -1)
    made = model.get_video_features(found["out.pixel_values"])
    torch.testing.assert_close(made, found["out.video_tokens"], rtol=0, atol=1e-4)


def test_what_is_saved_is_loaded_again_with_its_processor(folder, tmp_path):
    model, processor = load_vita(folder, audio="chunk:4:2")
    model.save_pretrained(tmp_path / "own")
    processor.save_pretrained(tmp_path / "own")
    again, reader = load_vita(tmp_path / "own")
    assert (again.config.audio_config.chunk_size, again.config.audio_config.left_chunks) == (4, 2)
    for (name, one), (_, other) in zip(
        model.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert torch.equal(one, other), name
    assert vars(VitaProcessor.from_pretrained(tmp_path / "own")).keys() == vars(reader).keys()
    assert VitaProcessor.from_pretrained(tmp_path / "own").side == reader.side == 56
    other, _ = load_vita(tmp_path / "own", audio="full")
    assert other.config.audio_config.chunk_size == ALL


@pytest.mark.parametrize("form", ["safetensors", "pt"])
def test_the_audio_encoder_s_weights_may_lie_in_its_own_folder(form, folder, found, capfd):
    whole = weights(found)
    prefix = "model.audio_encoder."
    own = {n.removeprefix(prefix): w for n, w in whole.items() if n.startswith(prefix)}
    rest = {n: w for n, w in whole.items() if not n.startswith(prefix)}
    put(folder, rest)
    with pytest.raises(ValueError, match=r"no model\.audio_encoder\.\*, and .*final\.pt"):
        load_vita(folder)
    if form == "pt":
        torch.save(own, folder / AUDIO_FOLDER / "final.pt")
    else:
        save_file(own, folder / AUDIO_FOLDER / "model.safetensors")
    model, _ = load_vita(folder)
    read = model.model.audio_encoder.state_dict()
    assert read.keys() == own.keys()
    assert all(torch.equal(read[name], weight) for name, weight in own.items())
    assert "newly initialized" not in capfd.readouterr().err


def test_a_pickle_that_could_run_code_is_not_read(folder, found):
    rest = {n: w for n, w in weights(found).items() if "audio_encoder" not in n}
    put(folder, rest)
    torch.save({"weights": Path("anything")}, folder / AUDIO_FOLDER / "final.pt")
    with pytest.raises(ValueError, match=r"final\.pt holds more than tensors"):
        load_vita(folder)


@pytest.mark.parametrize("change_names", ["missing", "unknown"])
def test_weights_that_do_not_fit_are_refused_by_name(change_names, folder, found):
    held = weights(found)
    if change_names == "missing":
        del held["model.mm_projector.2.bias"]
    else:
        held["model.audio_encoder.prompt_embeddings.weight"] = torch.zeros(5, 32)
    put(folder, held)
    name = r"lack model\.mm_projector\.2\.bias" if change_names == "missing" else "prompt_embedd"
    with pytest.raises(ValueError, match=name):
        load_vita(folder)


def test_a_vocabulary_that_does_not_fit_is_refused(folder, found):
    held = weights(found)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        held[name] = held[name][:50].clone()
    put(folder, held)
    with pytest.raises(ValueError, match="tokenizer has 60 tokens and the weights 50"):
        load_vita(folder)
    held["lm_head.weight"] = weights(found)["lm_head.weight"]
    put(folder, held)
    with pytest.raises(ValueError, match=r"vocabulary has the shapes .*\(50, 32\).*\(64, 32\)"):
        load_vita(folder)


def test_random_chunks_are_refused_and_a_choice_stands_in_the_configuration():
    train = full_size_train(**{"transformer-dynamic-chunks": True, "transformer-chunk_size": 4})
    with pytest.raises(ValueError, match=r"transformer-dynamic-chunks is True.*chunk:SIZE:LEFT"):
        published_config(PUBLISHED, train)
    del train["encoder_conf"]["para_conf"]["transformer"]["transformer-dynamic-chunks"]
    with pytest.raises(ValueError, match="transformer-dynamic-chunks is True"):
        published_config(PUBLISHED, train)
    for audio, sizes in {"full": (-1, -1), "chunk:4:16": (4, 16), "chunk:8:-1": (8, -1)}.items():
        chosen = published_config(PUBLISHED, train, audio).audio_config
        assert (chosen.chunk_size, chosen.left_chunks) == sizes
    for audio in ("chunk", "chunk:0:1", "chunk:4:-2", "chunk:4", "Full"):
        with pytest.raises(ValueError, match=f"audio is '{audio}'; expected 'full'"):
            published_config(PUBLISHED, train, audio)


def test_fixed_chunks_are_those_of_the_file():
    sizes = {"transformer-chunk_size": 4, "transformer-left_chunks": 16}
    read = published_config(PUBLISHED, full_size_train(**sizes)).audio_config
    assert (read.chunk_size, read.left_chunks) == (4, 16)
    hyphens = {"transformer-chunk-size": 4, "transformer-left-chunks": 16}
    train = full_size_train(**hyphens)
    for name in sizes:
        del train["encoder_conf"]["para_conf"]["transformer"][name]
    assert published_config(PUBLISHED, train).audio_config.to_dict() == read.to_dict()


def test_dither_is_none_whatever_the_file_says():
    train = full_size_train()
    train["dataset_conf"]["fbank_conf"]["dither"] = 1.0
    config = published_config(PUBLISHED, train)
    processor = VitaProcessor.for_config(None, config)
    wave = np.zeros(800, np.float32)
    assert torch.equal(processor.sound(wave), processor.sound(wave))


def test_the_decoder_s_settings_are_those_of_the_file():
    config = published_config(PUBLISHED, full_size_train())
    assert config.rope_parameters["rope_theta"] == 1e6
    assert (config.rms_norm_eps, config.num_key_value_heads) == (1e-6, 4)
    assert (config.eos_token_id, config.tokenizer_model_max_length) == (151645, 6200)
    assert config.dtype == torch.bfloat16
    assert not config.tie_word_embeddings
    assert set(config.layer_types) == {"full_attention"}


REFUSED = [
    ("config.json", "model_type", "qwen2"),
    ("config.json", "mm_projector_type", "spp_v1"),
    ("config.json", "mm_hidden_size", 1024),
    ("config.json", "image_aspect_ratio", "pad"),
    ("config.json", "mm_vision_select_layer", -2),
    ("config.json", "mm_resampler_type", "perceiver"),
    ("config.json", "audio_prompt_finetune", True),
    ("config.json", "use_s2", True),
    ("config.json", "use_sliding_window", True),
    ("config.json", "rope_scaling", {"type": "yarn", "factor": 4.0}),
    ("config.json", "quantization_config", {"bits": 4}),
    ("config.json", "tokenizer_model_max_length", "long"),
    ("encoder_conf overview_conf", "encoder-layer-config", "subsampling-mamba"),
    ("encoder_conf overview_conf", "encoder-output-dim", 512),
    ("encoder_conf para_conf subsampling", "subsampling-rate", 8),
    ("encoder_conf para_conf transformer", "transformer-pos-enc-class", "abs-enc"),
    ("encoder_conf para_conf transformer", "transformer-normalize-before", False),
    ("encoder_conf para_conf transformer", "transformer-concat-after", True),
    ("encoder_conf para_conf transformer", "transformer-positionwise-layer-type", "conv1d"),
    ("encoder_conf para_conf transformer", "transformer-input-layer", "none"),
    ("encoder_conf para_conf transformer", "transformer-chunk_size", "4"),
    ("model_conf", "adpter_type", "cnn"),
    ("model_conf", "activation_func", "relu"),
    ("model_conf", "norm", "batch"),
    ("model_conf", "llm_embed_dim", 4096),
    ("model_conf", "add_audio_bos_eos", True),
    ("dataset_conf resample_conf", "resample_rate", 8_000),
    ("dataset_conf fbank_conf", "num_mel_bins", 40),
]


@pytest.mark.parametrize(("where", "name", "value"), REFUSED)
def test_a_setting_that_is_not_computed_is_refused_by_name(where, name, value):
    values, train = dict(PUBLISHED), full_size_train()
    table = values if where == "config.json" else train
    for step in where.split() if table is train else []:
        table = table[step]
    table[name] = value
    with pytest.raises(ValueError) as refusal:
        published_config(values, train)
    said = str(refusal.value)
    assert name in said
    assert repr(value) in said
    assert where.split()[-1] in said
    assert "this port computes" in said


@pytest.mark.parametrize(
    ("name", "absent"),
    [
        ("adpter_type", "'cnn' where it is absent"),
        ("norm", "'batch' where it is absent"),
        ("kernel_size", "has no kernel_size"),
    ],
)
def test_an_absent_setting_means_what_it_means_to_the_reference(name, absent):
    train = full_size_train()
    del train["model_conf"][name]
    with pytest.raises(ValueError, match=absent):
        published_config(PUBLISHED, train)


@pytest.mark.parametrize(
    ("file", "name", "value"),
    [
        ("config.json", "norm_type", "rms_norm"),
        ("config.json", "qk_normalization", True),
        ("config.json", "hidden_act", "relu"),
        ("preprocessor_config.json", "size", 64),
        ("preprocessor_config.json", "do_center_crop", False),
        ("preprocessor_config.json", "image_mean", [0.5, 0.5, 0.5]),
        ("preprocessor_config.json", "resample", 2),
    ],
)
def test_a_vision_tower_s_setting_is_refused_by_name(file, name, value, folder):
    change(folder.parent / "InternViT" / file, **{name: value})
    with pytest.raises(ValueError, match=rf"{file}: {name} is .*; this port computes"):
        load_vita(folder)


def test_the_known_tower_needs_no_files_and_another_does(folder):
    change(folder / "config.json", mm_vision_tower="OpenGVLab/InternViT-300M-448px")
    with pytest.raises(ValueError, match="mm_hidden_size is 64; this port computes 4096"):
        load_vita(folder)
    change(folder / "config.json", mm_vision_tower="OpenGVLab/InternViT-6B-448px")
    with pytest.raises(ValueError, match=r"mm_vision_tower is 'OpenGVLab/InternViT-6B-448px'"):
        load_vita(folder)


def test_the_audio_folder_is_where_the_configuration_points(folder, tmp_path):
    (folder / AUDIO_FOLDER).rename(tmp_path / "ears")
    with pytest.raises(ValueError, match=r"no train\.yaml in .*mm_audio_encoder points"):
        load_vita(folder)
    change(folder / "config.json", mm_audio_encoder=str(tmp_path / "ears"))
    load_vita(folder)


def test_a_name_that_is_no_folder_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="hf download no-one/no-model"):
        load_vita("no-one/no-model")
    with pytest.raises(ValueError, match=r"has no config\.json"):
        load_vita(tmp_path)


def test_code_that_lies_in_the_folder_is_not_run(folder, tmp_path):
    ran = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')\n")
    own = {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M", "AutoTokenizer": ["own.T", None]}
    change(folder / "config.json", auto_map=own)
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.T", None]})
    load_vita(folder)
    assert not ran.exists()
