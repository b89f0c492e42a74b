"""The sizes and settings of a VITA, small or large."""

from __future__ import annotations

from transformers import AutoConfig, InternVLVisionConfig, PreTrainedConfig, Qwen2Config

ALL = -1
"""As a chunk's size or a number of chunks: no limit."""


class WhaleConfig(PreTrainedConfig):
    """The audio encoder and its adapter; the defaults are VITA-1.5's.

    Attributes
    ----------
    sampling_rate, num_mel_bins, frame_length, frame_shift
        Of the features: Hz, filters, and milliseconds.
    subsampling_channels
        Of the two convolutions that keep a quarter of the frames.
    hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, layer_norm_eps
        Of the encoder's layers.
    chunk_size, left_chunks
        A frame attends to its own chunk of so many (subsampled) frames, and to so many chunks to
        the left; :data:`ALL` (-1) sets no limit. With ``chunk_size`` -1 attention is full.
    adapter_size, adapter_kernel_size, adapter_norm_eps
        Of the adapter's convolution, which halves the frames, and of the norm after it.
    """

    model_type = "vita_whale"
    base_config_key = "audio_config"

    sampling_rate: int = 16_000
    num_mel_bins: int = 80
    frame_length: int | float = 25
    frame_shift: int | float = 10
    subsampling_channels: int = 1024
    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    layer_norm_eps: float = 1e-5
    chunk_size: int = ALL
    left_chunks: int = ALL
    adapter_size: int = 2048
    adapter_kernel_size: int = 5
    adapter_norm_eps: float = 1e-3
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"the audio encoder's hidden_size {self.hidden_size} must be a multiple of its "
                f"num_attention_heads {self.num_attention_heads}"
            )
        if (self.chunk_size < 1 and self.chunk_size != ALL) or self.left_chunks < ALL:
            raise ValueError(
                f"chunk_size is 1 or more, or {ALL} for full attention, and left_chunks is 0 or "
                f"more, or {ALL} for all; got {self.chunk_size} and {self.left_chunks}"
            )
        super().__post_init__(**kwargs)


class VitaConfig(Qwen2Config):
    """A Qwen2 decoder's configuration that also holds the vision tower's and the audio encoder's.

    It is itself the decoder's text configuration. By sizes::

        VitaConfig(vocab_size=..., hidden_size=..., vision_config={"image_size": ...},
                   audio_config={"hidden_size": ...})

    :func:`emomm_study.systems.vita.load.published_config` makes one from a published
    ``config.json`` and ``train.yaml``.

    Attributes
    ----------
    vision_config
        InternViT; what its published weights need is the default, and VITA-1.5's sizes are.
    audio_config
        The audio encoder.
    tokenizer_model_max_length
        Longest prompt, media included, that the model was trained for.
    """

    model_type = "vita-Qwen2"
    sub_configs_defaults = {"vision_config": InternVLVisionConfig, "audio_config": WhaleConfig}

    vision_config: dict | PreTrainedConfig | None = None
    audio_config: dict | PreTrainedConfig | None = None
    tokenizer_model_max_length: int = 6200

    def __post_init__(self, **kwargs) -> None:
        if not isinstance(self.vision_config, PreTrainedConfig):
            # InternVLVisionModel's own default has no biases on queries, keys and values.
            self.vision_config = {"attention_bias": True, **(self.vision_config or {})}
        super().__post_init__(**kwargs)


AutoConfig.register(VitaConfig.model_type, VitaConfig, exist_ok=True)
