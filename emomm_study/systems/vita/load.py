"""Reads a VITA from a folder: every setting of its files is computed as asked, or refused by name."""

from __future__ import annotations

import emomm_lib._torchvision  # noqa: F401

# isort: split
import json
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoTokenizer, InternVLVisionConfig, Qwen2Config
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling

from emomm_study.systems.backbone import without_weights
from emomm_study.systems.vita.configuration import ALL, VitaConfig, WhaleConfig
from emomm_study.systems.vita.modeling import JOINED, VitaForConditionalGeneration
from emomm_study.systems.vita.processing import VitaProcessor

AUDIO_FOLDER = "audio-encoder-Qwen2-7B-1107-weight-base-11wh-tunning"
"""The audio encoder's folder inside the published model's."""
KNOWN_TOWER = "InternViT-300M-448px"
"""The vision tower whose sizes are known here where its own ``config.json`` is not at hand."""
_AUDIO_PREFIX = "model.audio_encoder."
_TRAINING = frozenset(
    "mm_projector_lr mm_vision_tower mm_audio_encoder mm_hidden_size mm_projector_type "
    "audio_prompt_num".split()
)
"""Fields of ``config.json`` that are read elsewhere, or set nothing that is computed."""
_REQUIRED = object()


class Settings:
    """Fields of one file, asked for by name; hyphens and underscores are the same.

    Every refusal is a ``ValueError`` that names the file and the field, what was found and what
    was expected.
    """

    def __init__(self, source: str, values: Mapping[str, Any]) -> None:
        self.source = source
        self._values = {str(k).replace("-", "_"): v for k, v in values.items()}
        self._written = {str(k).replace("-", "_"): str(k) for k in values}

    def __contains__(self, name: str) -> bool:
        return name.replace("-", "_") in self._values

    def __iter__(self):
        return iter(self._values)

    def get(self, name: str, default: Any = _REQUIRED) -> Any:
        """The field, or the default where it is absent; one without a default must be there."""
        key = name.replace("-", "_")
        if key not in self._values and default is _REQUIRED:
            raise ValueError(f"{self.source} has no {name}; expected a value: get the whole file")
        return self._values.get(key, default)

    def below(self, name: str) -> Settings:
        """The fields of a nested table."""
        nested = self.get(name)
        if not isinstance(nested, Mapping):
            raise ValueError(f"{self.source}: {name} is {nested!r}; expected a table of fields")
        return Settings(f"{self.source}: {name}", nested)

    def whole(self, name: str, default: Any = _REQUIRED) -> int:
        """A whole number."""
        found = self.get(name, default)
        if isinstance(found, bool) or not isinstance(found, int):
            self.refuse(name, found, "a whole number")
        return found

    def size(self, name: str) -> int:
        """A positive whole number."""
        found = self.whole(name)
        if found < 1:
            self.refuse(name, found, "a positive whole number")
        return found

    def must(self, name: str, *expected: Any, absent: Any = _REQUIRED) -> Any:
        """The field, which has to be one of the expected; ``absent`` is what its absence means."""
        found = self.get(name, absent)
        # True is 1 to Python, and not to the code that reads these files.
        if not any(found == e and isinstance(found, bool) == isinstance(e, bool) for e in expected):
            self.refuse(name, found, " or ".join(map(repr, expected)))
        return found

    def refuse(self, name: str, found: Any, expected: str) -> None:
        key = name.replace("-", "_")
        said = "" if key in self._values else " where it is absent"
        raise ValueError(
            f"{self.source}: {self._written.get(key, name)} is {found!r}{said}; this port computes "
            f"{expected}: use weights that were trained with that"
        )


def load_vita(
    name_or_path: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    audio: str | None = None,
    weights: bool = True,
) -> tuple[VitaForConditionalGeneration, VitaProcessor]:
    """A VITA and its processor, from a folder or the id of a hub model that was downloaded.

    ``dtype`` is a torch dtype or its name, or ``auto``. ``audio`` chooses how the audio encoder
    attends: ``full``, or ``chunk:SIZE:LEFT`` (LEFT -1: all chunks to the left); None takes what
    the model's files say, and must be given where they ask for random chunks. It then stands in
    ``model.config.audio_config``. Features are computed without dither, whatever the files say.

    Weights are read from safetensors; those of the audio encoder from its own folder (safetensors,
    or tensors alone of a ``.pt`` file) where the model's have none; without ``weights`` only headers
    are read, and the model has shapes alone. Raises ``ValueError`` for a
    setting that this port does not compute as asked, for weights that are missing or that it does
    not know, and for a vocabulary that does not fit.
    """
    folder = local_folder(name_or_path)
    config = read_config(folder, audio)
    tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    shapes = weight_shapes(folder)
    config.vocab_size = _rows(folder, shapes, config, len(tokenizer))
    if not weights:
        config.vocab_size = len(tokenizer)
        model = without_weights(VitaForConditionalGeneration, config, str(dtype).split(".")[-1])
        return model.eval(), VitaProcessor.for_config(tokenizer, model.config)
    apart = not any(name.startswith(_AUDIO_PREFIX) for name in shapes)
    heard = _audio_weights(folder) if apart else None
    with _quiet(apart):
        model, info = VitaForConditionalGeneration.from_pretrained(
            str(folder), config=config, dtype=dtype, use_safetensors=True, output_loading_info=True
        )
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    if heard is not None:
        missing = [name for name in missing if not name.startswith(_AUDIO_PREFIX)]
        missed, surplus = model.model.audio_encoder.load_state_dict(heard, strict=False)
        missing += [_AUDIO_PREFIX + name for name in missed]
        unexpected += [_AUDIO_PREFIX + name for name in surplus]
    for names, problem in ((missing, "lack"), (unexpected, "have, unknown to this port,")):
        if names:
            raise ValueError(
                f"{folder}: the weights {problem} {', '.join(names[:5])}"
                f"{', ...' if len(names) > 5 else ''} ({len(names)}); expected VITA-1.5's"
            )
    if config.vocab_size > len(tokenizer):
        # What lies beyond the tokenizer's last token was never trained; the reference cuts it too.
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model = model.to(device).eval()
    return model, VitaProcessor.for_config(tokenizer, model.config)


def local_folder(name_or_path: str | Path) -> Path:
    """A folder of that name, or where the hub's model of that name was downloaded to."""
    path = Path(name_or_path)
    if path.is_dir():
        return path
    try:
        return Path(snapshot_download(str(name_or_path), local_files_only=True))
    except (LocalEntryNotFoundError, ValueError) as error:
        raise ValueError(
            f"{name_or_path} is no folder and no downloaded hub model; expected one of them: "
            f"download it first (hf download {name_or_path})"
        ) from error


def read_config(folder: Path, audio: str | None = None) -> VitaConfig:
    """The configuration in a folder: ours, or what a published one's files amount to."""
    path = folder / "config.json"
    if not path.exists():
        raise ValueError(f"{folder} has no config.json; expected a VITA's folder")
    values = json.loads(path.read_text(encoding="utf-8"))
    if "audio_config" in values and values.get("model_type") == VitaConfig.model_type:
        config = VitaConfig.from_pretrained(str(folder))
        if audio is not None:
            config.audio_config.chunk_size, config.audio_config.left_chunks = chunks(audio)
        return config
    train_path = audio_folder(folder, values.get("mm_audio_encoder")) / "train.yaml"
    train = yaml.safe_load(train_path.read_text(encoding="utf-8"))
    vision = _vision(Settings(str(path), values).get("mm_vision_tower"))
    return published_config(values, train, audio, vision)


def published_config(
    values: Mapping[str, Any],
    train: Mapping[str, Any],
    audio: str | None = None,
    vision: InternVLVisionConfig | None = None,
) -> VitaConfig:
    """What a published ``config.json`` and ``train.yaml`` amount to.

    Parameters
    ----------
    values, train
        The two files' contents.
    audio
        As for :func:`load_vita`.
    vision
        The vision tower's; VITA-1.5's when None.
    """
    top = Settings("config.json", values)
    top.must("model_type", VitaConfig.model_type)
    top.must("mm_projector_type", "mlp2x_gelu", absent="mlp2x_gelu")
    # Whether and how frames are padded to squares; "square" resizes and crops.
    top.must("image_aspect_ratio", "square", absent="square")
    top.must("mm_vision_select_layer", -1, absent=-1)
    top.must("mm_vision_select_feature", "patch", absent="patch")
    for name in ("use_s2", "use_sliding_window", "audio_state_predictor_tuning"):
        top.must(name, False, None, absent=False)
    top.must("audio_prompt_finetune", False, None, absent=False)
    for name in ("rope_scaling", "quantization_config"):
        top.must(name, None, absent=None)
    for name in top:
        known = name in _TRAINING or name.startswith("mm_vision_select")
        if name.startswith(("mm_", "audio_", "vision_")) and not known:
            top.must(name, None, False, absent=None)
    vision = vision or InternVLVisionConfig(attention_bias=True)
    top.must("mm_hidden_size", JOINED**2 * vision.hidden_size)
    known = set(Qwen2Config.__dataclass_fields__) - {"layer_types"}
    decoder = {name: value for name, value in values.items() if name in known}
    legacy = {name: values[name] for name in ("rope_theta", "torch_dtype") if name in values}
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"):
        top.size(name)
    return VitaConfig(
        **decoder,
        **legacy,
        vision_config=vision,
        audio_config=_whale(Settings("train.yaml", train), top.size("hidden_size"), audio),
        tokenizer_model_max_length=top.size("tokenizer_model_max_length"),
    )


def _whale(train: Settings, hidden: int, audio: str | None) -> WhaleConfig:
    """The audio encoder that a ``train.yaml`` describes; ``hidden`` is the decoder's width."""
    overview = train.below("encoder_conf").below("overview_conf")
    parts = train.below("encoder_conf").below("para_conf")
    overview.must("encoder-layer-config", "subsampling-transformer")
    convolutions, layers = parts.below("subsampling"), parts.below("transformer")
    mels = train.size("input_dim")
    overview.must("encoder-input-dim", mels)
    convolutions.must("subsampling-input-dim", mels)
    convolutions.must("subsampling-rate", 4, absent=4)
    channels = convolutions.size("subsampling-output-dim")
    layers.must("transformer-input-dim", channels)
    width = layers.size("transformer-attention-dim")
    layers.must("transformer-output-dim", width)
    overview.must("encoder-output-dim", width)
    layers.must("transformer-input-layer", "linear", absent="linear")
    layers.must("transformer-pos-enc-class", "rel-enc", absent="abs-enc")
    layers.must("transformer-normalize-before", True, absent=True)
    layers.must("transformer-concat-after", False, absent=False)
    layers.must("transformer-positionwise-layer-type", "linear", absent="linear")
    if audio is None:
        if layers.get("transformer-dynamic-chunks", True) is not False:
            raise ValueError(
                f"{layers.source}: transformer-dynamic-chunks is "
                f"{layers.get('transformer-dynamic-chunks', True)!r}: chunks are drawn at random "
                "then, in use as in training; expected false, or a choice of yours: "
                "audio='full' or audio='chunk:SIZE:LEFT'"
            )
        size, left = ALL, ALL
        # Without a positive size the reference asks for no chunks, and a negative number of chunks
        # to the left is all of them.
        if layers.whole("transformer-chunk_size", ALL) > 0:
            size = layers.whole("transformer-chunk_size", ALL)
            left = max(layers.whole("transformer-left_chunks", ALL), ALL)
    else:
        size, left = chunks(audio)
    adapter = train.below("model_conf")
    adapter.must("adpter_type", "subsampling", absent="cnn")
    adapter.must("activation_func", "gelu", absent="relu")
    adapter.must("norm", "layer", absent="batch")
    adapter.must("enc_out_dim", width, absent=512)
    adapter.must("llm_embed_dim", hidden, absent=4096)
    for name in ("add_audio_bos_eos", "audio_prompt_finetune"):
        adapter.must(name, False, absent=False)
    features = train.below("dataset_conf")
    features.below("resample_conf").must("resample_rate", 16_000)
    bank = features.below("fbank_conf")
    bank.must("num_mel_bins", mels)
    return WhaleConfig(
        num_mel_bins=mels,
        frame_length=bank.get("frame_length"),
        frame_shift=bank.get("frame_shift"),
        subsampling_channels=channels,
        hidden_size=width,
        num_hidden_layers=layers.size("transformer-num-blocks"),
        num_attention_heads=layers.size("transformer-attention-heads"),
        intermediate_size=layers.size("transformer-linear-units"),
        chunk_size=size,
        left_chunks=left,
        adapter_size=2 * width,
        adapter_kernel_size=adapter.size("kernel_size"),
    )


def chunks(audio: str) -> tuple[int, int]:
    """Chunk size and chunks to the left of ``full`` or ``chunk:SIZE:LEFT``."""
    if audio == "full":
        return ALL, ALL
    found = re.fullmatch(r"chunk:([1-9]\d*):(\d+|-1)", audio)
    if found is None:
        raise ValueError(
            f"audio is {audio!r}; expected 'full', or 'chunk:SIZE:LEFT' such as 'chunk:4:16' "
            "(LEFT -1: all chunks to the left)"
        )
    return int(found[1]), int(found[2])


def audio_folder(folder: Path, named: str | None) -> Path:
    """Where the audio encoder's files are: as ``config.json`` names it, or inside the model's."""
    tried = [Path(named), folder / named] if named else []
    tried.append(folder / AUDIO_FOLDER)
    for path in tried:
        if (path / "train.yaml").exists():
            return path
    if named:
        try:
            downloaded = local_folder(named)
        except ValueError:
            pass
        else:
            for path in (downloaded, downloaded / AUDIO_FOLDER):
                if (path / "train.yaml").exists():
                    return path
    raise ValueError(
        f"{folder}: no train.yaml in {folder / AUDIO_FOLDER}, nor where config.json's "
        f"mm_audio_encoder points ({named!r}); expected one: download the audio encoder too, "
        "which has the settings of its attention"
    )


def _vision(named: str) -> InternVLVisionConfig:
    """The vision tower's sizes, from its own files where they are at hand."""
    try:
        folder = local_folder(named)
    except ValueError:
        if named.rstrip("/").endswith(KNOWN_TOWER):
            return InternVLVisionConfig(attention_bias=True)
        raise ValueError(
            f"config.json: mm_vision_tower is {named!r}; this port knows {KNOWN_TOWER}, and an "
            "InternViT in a folder or downloaded: download it"
        ) from None
    read = (folder / "config.json").read_text(encoding="utf-8")
    tower = Settings(f"{folder}/config.json", json.loads(read))
    tower.must("model_type", "intern_vit_6b")
    tower.must("qk_normalization", False, absent=True)
    tower.must("norm_type", "layer_norm", absent="rms_norm")
    tower.must("hidden_act", "gelu", absent="gelu")
    tower.must("num_channels", 3, absent=3)
    side = tower.size("image_size")
    if (folder / "preprocessor_config.json").exists():
        _check_images(folder / "preprocessor_config.json", side)
    return InternVLVisionConfig(
        hidden_size=tower.size("hidden_size"),
        num_hidden_layers=tower.size("num_hidden_layers"),
        num_attention_heads=tower.size("num_attention_heads"),
        intermediate_size=tower.size("intermediate_size"),
        attention_bias=tower.must("qkv_bias", True, False, absent=False),
        layer_norm_eps=tower.get("layer_norm_eps", 1e-6),
        image_size=side,
        patch_size=tower.size("patch_size"),
    )


def _check_images(path: Path, side: int) -> None:
    """Refuse frames that are to be prepared in another way than :class:`VitaProcessor` does."""
    images = Settings(str(path), json.loads(path.read_text(encoding="utf-8")))
    for name in ("do_resize", "do_center_crop", "do_normalize"):
        images.must(name, True, absent=True)
    images.must("crop_size", side, {"height": side, "width": side})
    images.must("size", side, {"shortest_edge": side})
    images.must("resample", int(PILImageResampling.BICUBIC), absent=3)
    images.must("image_mean", list(IMAGENET_DEFAULT_MEAN))
    images.must("image_std", list(IMAGENET_DEFAULT_STD))


def weight_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every weight in the folder's safetensors files, read from their headers."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder} has no .safetensors file; expected the weights in that form")
    shapes = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            shapes |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}
    return shapes


def _rows(folder: Path, shapes: Mapping[str, tuple], config: VitaConfig, tokens: int) -> int:
    """How many tokens the weights have; ``config.json`` may name another number."""
    names = ["model.embed_tokens.weight"]
    names += [] if config.tie_word_embeddings else ["lm_head.weight"]
    found = {name: shapes.get(name) for name in names}
    rows = {shape[0] if shape else None for shape in found.values()}
    if len(rows) > 1 or None in rows:
        raise ValueError(f"{folder}: the vocabulary has the shapes {found}; expected one for both")
    (count,) = rows
    if count < tokens:
        raise ValueError(
            f"{folder}: the tokenizer has {tokens} tokens and the weights {count}; expected no "
            "more than the weights have: use the tokenizer of these weights"
        )
    return count


def _audio_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The audio encoder's weights from its own folder, without a prefix."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    own = audio_folder(folder, config.get("mm_audio_encoder"))
    found: dict[str, torch.Tensor] = {}
    for file in sorted(own.glob("*.safetensors")):
        found |= load_file(file)
    if not found and (own / "final.pt").exists():
        try:
            found = torch.load(own / "final.pt", map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"{own / 'final.pt'} holds more than tensors, and is not read: it could run code; "
                "expected tensors alone, or the audio encoder's weights in a .safetensors file"
            ) from error
    if not found:
        raise ValueError(
            f"the weights in {folder} have no {_AUDIO_PREFIX}*, and {own} has neither a "
            ".safetensors file nor final.pt; expected the audio encoder's weights in one of them"
        )
    return {name.removeprefix(_AUDIO_PREFIX): weight for name, weight in found.items()}


@contextmanager
def _quiet(wanted: bool) -> Iterator[None]:
    """Keep transformers from announcing as new the weights that are about to be read."""
    before = transformers.logging.get_verbosity()
    if wanted:
        transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)
