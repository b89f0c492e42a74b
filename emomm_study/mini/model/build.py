"""Omni-mini: a few million parameters of Qwen2.5-Omni's thinker, with a processor of its own."""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    WhisperFeatureExtractor,
)

from emomm_lib.labels import COALITIONS, LETTERS
from emomm_study.corpora.scores import GRIDS, Corpus
from emomm_study.mini.surrogate.lexicon import LEXICONS
from emomm_study.systems.prompts import (
    SYSTEM_PROMPT,
    TRANSCRIPT_PREFIX,
    format_score,
    instruction,
)

_SPECIAL = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<|vision_bos|><|VIDEO|><|vision_eos|>"
    "{% elif part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% elif part['type'] == 'image' %}<|vision_bos|><|IMAGE|><|vision_eos|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class MiniConfig:
    """Sizes of Omni-mini. Frames are ``side`` pixels square, 28 pixels a token and side."""

    vocab_size: int = 1200
    hidden: int = 128
    layers: int = 8
    heads: int = 8
    kv_heads: int = 4
    ffn: int = 256
    vision_hidden: int = 96
    vision_layers: int = 3
    vision_heads: int = 4
    vision_ffn: int = 192
    audio_hidden: int = 96
    audio_layers: int = 2
    audio_heads: int = 4
    audio_ffn: int = 192
    mel_bins: int = 64
    audio_seconds: int = 3
    side: int = 224


def _fixed_prompt_pieces() -> list[str]:
    """The prompt's fixed text, cut where something varies: each piece becomes one token.

    So the paper's prompt is used whole, and costs a small model a few dozen tokens instead of
    several hundred.
    """
    pieces = [line + "\n" for line in SYSTEM_PROMPT.split("\n")[:-1]] + [
        SYSTEM_PROMPT.split("\n")[-1]
    ]
    pieces.append(TRANSCRIPT_PREFIX)
    for corpus in Corpus:
        head, rest = instruction("none", corpus).split("(none)")
        pieces += [head + "(", ")" + rest.split("\n")[0] + "\n"]
        pieces += [line + "\n" for line in rest.split("\n")[1:-1]] + [rest.split("\n")[-1]]
    pieces += ["transcript text", "video", "audio", "none", "\nScore: "]
    pieces += [
        "<|im_start|>system\n",
        "<|im_start|>user\n",
        "<|im_start|>assistant\n",
        "<|im_end|>\n",
    ]
    pieces += sorted(
        {format_score(s) for g in GRIDS.values() for i in range(5) for s in g.scores(i)}
    )
    return list(dict.fromkeys(pieces))


def build_tokenizer(config: MiniConfig) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on both lexicons and the prompt, with Qwen2.5-Omni's specials."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            # Han characters one by one: the lexicon's words are their combinations.
            pre_tokenizers.Split(Regex(r"[\u4e00-\u9fff]| ?[^\s\u4e00-\u9fff]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *_SPECIAL.values()]
    material = [s for lexicon in LEXICONS.values() for s in lexicon.sentences()]
    material += [s[0].upper() + s[1:] for s in material]
    material += [instruction(c, k) for c in COALITIONS for k in Corpus] + list(LETTERS)
    tokenizer.train_from_iterator(
        sorted(material),
        trainers.BpeTrainer(
            vocab_size=config.vocab_size,
            special_tokens=specials,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.add_tokens(
        [AddedToken(p, normalized=False, special=False) for p in _fixed_prompt_pieces()]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        extra_special_tokens=_SPECIAL,
        clean_up_tokenization_spaces=False,
    )


def build_processor(config: MiniConfig | None = None) -> Qwen2_5OmniProcessor:
    """Qwen2.5-Omni's processor: small tokenizer, Whisper features, Qwen's video patches."""
    config = config or MiniConfig()
    pixels = config.side**2
    return Qwen2_5OmniProcessor(
        image_processor=Qwen2VLImageProcessor(
            size={"shortest_edge": pixels, "longest_edge": pixels}
        ),
        video_processor=Qwen2VLVideoProcessor(
            size={"shortest_edge": pixels, "longest_edge": pixels},
            cap_pixels_per_frame=False,
        ),
        feature_extractor=WhisperFeatureExtractor(
            feature_size=config.mel_bins, chunk_length=config.audio_seconds
        ),
        tokenizer=build_tokenizer(config),
        chat_template=_CHAT_TEMPLATE,
    )


def build_model(
    processor: Qwen2_5OmniProcessor, config: MiniConfig | None = None
) -> Qwen2_5OmniThinkerForConditionalGeneration:
    """The thinker with random weights, its token ids taken from the processor's tokenizer."""
    config = config or MiniConfig()
    tokenizer = processor.tokenizer
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in _SPECIAL.items()}
    head_dim = config.hidden // config.heads
    half = head_dim // 2
    thinker = Qwen2_5OmniThinkerConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": config.hidden,
            "intermediate_size": config.ffn,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "num_key_value_heads": config.kv_heads,
            "max_position_embeddings": 4096,
            "max_window_layers": config.layers,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [half - 2 * (3 * half // 8), 3 * half // 8, 3 * half // 8],
            },
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": config.vision_layers,
            "hidden_size": config.vision_hidden,
            "intermediate_size": config.vision_ffn,
            "num_heads": config.vision_heads,
            "out_hidden_size": config.hidden,
            "fullatt_block_indexes": list(range(config.vision_layers)),
        },
        audio_config={
            "num_mel_bins": config.mel_bins,
            "encoder_layers": config.audio_layers,
            "encoder_attention_heads": config.audio_heads,
            "encoder_ffn_dim": config.audio_ffn,
            "d_model": config.audio_hidden,
            "n_window": 50 * config.audio_seconds,
            "max_source_positions": 50 * config.audio_seconds,
            "output_dim": config.hidden,
        },
        audio_token_index=ids["audio_token"],
        image_token_index=ids["image_token"],
        video_token_index=ids["video_token"],
        audio_start_token_id=ids["audio_bos_token"],
        audio_end_token_id=ids["audio_eos_token"],
        vision_start_token_id=ids["vision_bos_token"],
        vision_end_token_id=ids["vision_eos_token"],
        user_token_id=tokenizer.convert_tokens_to_ids("<|im_start|>user\n"),
        tie_word_embeddings=True,
    )
    return Qwen2_5OmniThinkerForConditionalGeneration(thinker)
