# /// script
# requires-python = ">=3.10,<3.12"
# dependencies = [
#     "torch==2.1.0",
#     "torchvision==0.16.0",
#     "transformers==4.39.2",
#     "tokenizers==0.15.2",
#     "accelerate==0.29.3",
#     "numpy==1.26.4",
#     "pillow==10.4.0",
# ]
# ///
"""video-SALMONN 2 7B behind the drivers' protocol, by the code of its repository.

usage: uv run --script video_salmonn2.py --repo CHECKOUT --weights tsinghua-ee/video-SALMONN-2 \
--revision COMMIT --whisper-revision COMMIT --siglip-revision COMMIT

CHECKOUT is one of https://github.com/bytedance/video-SALMONN-2. Its model is loaded with the flags
of its demonstration, but attends by sdpa, and in the vision tower, where flash attention is written
in, by its own eager class. It needs a CUDA device, and neither deepspeed nor flash-attn.

Frames with sound are its ``audio-video``, frames its ``video``, sound its ``audio``; without either
the language model is asked alone. One frame is refused: two make a video, and a still beside sound
is not supported. The letters are read at the last position of the prompt.
"""

from __future__ import annotations

from serving import RATE, Answer, Query, Refused, read_frames, read_sound, serve, take_stdout

OUT = take_stdout() if __name__ == "__main__" else None

import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import decoders  # noqa: E402

MARK, IMAGE = "<image>", -200
GRID, WINDOWS, MAX_TIME, LONGEST = 13, 60, 110, 32_768
"""A frame's side in tokens, windows of half a second in a piece of 30 s, seconds, tokens."""
AUDIO = {
    "audio_visual": True, "video_fps": 1, "num_speech_query_token": 1, "second_per_window": 0.5,
    "second_stride": 0.5, "window_level_Qformer": True, "use_final_linear": True,
}  # fmt: skip
FLAGS = {
    "add_time_token": True, "mm_pooling_position": "after", "mm_spatial_pool_mode": "max",
    "mm_spatial_pool_stride": 2, "mm_newline_position": "grid", "modality_max_length": "None",
    "mm_patch_merge_type": "spatial_unpad", "tokenizer_padding_side": "right",
    "tokenizer_model_max_length": LONGEST, "unfreeze_mm_vision_tower": True,
}  # fmt: skip
CHOICES = {
    "contents": "one place for frames and sound, then the text",
    "system": "in the system turn",
    "letters": "last prompt position",
    "frames": f"as given, 2 to {MAX_TIME}; their times by seconds_per_frame, written without sound",
    "sound": f"padded to 1 s, cut to the frames' time; alone at most {MAX_TIME} s",
    "attention": "sdpa; the repository's eager one in the vision tower",
    "text alone": "the language model without a place for media",
    "decoding": "greedy, one beam, repetition_penalty 1.0",
    **AUDIO,
    **FLAGS,
}


def prompt_ids(tokenizer, system: str, text: str, media: bool) -> list:
    """ChatML up to the reply, in the pieces that the repository tokenizes; media are at -200."""

    def of(piece):
        return tokenizer(piece).input_ids

    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    line = of("\n")
    user = [IMAGE, *line, *of(f"\n{text}")] if media else of(text)
    return [
        *(start, *of("system"), *line, *of(system), end, *line),
        *(start, *of("user"), *line, *user, end, *line),
        *(start, *of("assistant"), *line),
    ]


def check_media(query: Query, samples: int) -> None:
    """Raise :class:`Refused` for frames and sound that the model has no place for."""
    if len(query.frames) == 1:
        raise Refused("one frame; expected at least two: a still is not supported beside sound")
    if len(query.frames) > MAX_TIME:
        raise Refused(f"{len(query.frames)} frames; expected at most {MAX_TIME}")
    if query.frames and not query.seconds_per_frame > 0:
        raise Refused(f"seconds_per_frame is {query.seconds_per_frame!r}; expected more than 0")
    if not query.frames and samples > RATE * MAX_TIME:
        raise Refused(f"{samples / RATE:.1f} s of sound; expected at most {MAX_TIME}")


def times(query: Query) -> list:
    """What is written behind each frame: the second at which its share of the time ends."""
    seconds = len(query.frames) * query.seconds_per_frame
    share = seconds / len(query.frames) if query.frames else 0.0
    return [str(round(share * number, 1)) for number in range(1, len(query.frames) + 1)]


def places(frames: int, seconds: float, pieces: int, written: int) -> tuple:
    """Tokens of video and of audio, for pieces of 30 s of sound and ``written`` tokens of a time.

    Times are written behind frames that no sound is between. Sound is spread evenly over the frames,
    some of it twice where it must be: up to ``seconds``, of which the repository takes one to have
    50 windows, so that it is nearly always all 30 s, the silence behind the sound as well.
    """
    windows = WINDOWS * pieces
    if not frames:
        return 0, windows
    front = min(windows, round(seconds * 50))
    return frames * (GRID * (GRID + 1) + written * (not pieces)), windows + -front % frames


class VideoSALMONN2:
    """The model, its tokenizer and the processors of both towers."""

    def __init__(self, folder: str, whisper: str, siglip: str, device: str, dtype: str) -> None:
        import torch
        from llava.model.language_model import video_salmonn_2 as code
        from llava.model.multimodal_encoder import siglip_encoder_flash as vision
        from transformers import AutoTokenizer, BertConfig, WhisperFeatureExtractor

        # Published as bert-base-uncased, whose configuration is this class's own.
        code.BertConfig = type("Known", (), {"from_pretrained": lambda name: BertConfig()})
        kinds = vision.SIGLIP_ATTENTION_CLASSES
        kinds["flash_attention_2"] = kinds["eager"]
        config = code.VideoSALMONN2Config.from_pretrained(folder)
        for name, value in {**FLAGS, "mm_vision_tower": siglip}.items():
            setattr(config, name, value)
        self.model, report = code.VideoSALMONN2ForCausalLM.from_pretrained(
            folder, config=config, attn_implementation="sdpa", torch_dtype=getattr(torch, dtype),
            output_loading_info=True, whisper_path=whisper, **AUDIO,
        )  # fmt: skip
        towers = ("model.vision_tower.", "speech_encoder.")
        if lacking := [name for name in report["missing_keys"] if not name.startswith(towers)]:
            sys.exit(f"{folder} lacks the weights {lacking[:5]}, {len(lacking)} in all")
        print(f"weights without a place: {report['unexpected_keys']}", file=sys.stderr)
        self.model.to(device=device, dtype=getattr(torch, dtype)).eval()
        tower = self.model.get_vision_tower()
        self.image_processor = tower.image_processor
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model.tokenizer = self.tokenizer
        self.sound_processor = WhisperFeatureExtractor.from_pretrained(whisper)
        self.torch = torch

    def given(self, query: Query) -> tuple:
        """Media as the model takes them, with the tokens and marks that they are to have."""
        import numpy as np

        sound, seconds = read_sound(query, RATE), len(query.frames) * query.seconds_per_frame
        check_media(query, 0 if sound is None else len(sound))
        like = {"device": self.model.device, "dtype": self.model.dtype}
        media: dict = {"images": None, "modalities": ["text"]}
        pieces = []
        if query.frames:
            frames = [np.array(frame) for frame in read_frames(query)]
            pixels = self.image_processor.preprocess(frames, return_tensors="pt")["pixel_values"]
            media = {"images": [pixels.to(**like)], "modalities": ["video"], "real_time": [seconds]}
        if sound is not None:
            sound = sound[: round(RATE * seconds)] if query.frames else sound
            pieces = [
                self.sound_processor(
                    sound[at : at + 30 * RATE], sampling_rate=RATE, return_tensors="pt"
                )["input_features"][0]
                for at in range(0, len(sound), 30 * RATE)
            ]
            media["spectrogram"] = self.torch.stack(pieces).to(**like)
            media["org_groups"] = [len(pieces)]
            media["modalities"] = ["audio-video" if query.frames else "audio"]
            media.setdefault("real_time", [30 * len(pieces)])
            media["images"] = media["images"] or [None]
        written = max((len(self.tokenizer(time).input_ids) for time in times(query)), default=0)
        video, audio = places(len(query.frames), seconds, len(pieces), written)
        spoken = decoders.transcript_tokens(query, self.tokenizer)
        return media, {"T": spoken, "A": audio, "V": video}, bool(pieces)

    def answer(self, query: Query, max_new_tokens: int) -> Answer:
        decoders.check_text(query, self.tokenizer, (MARK,))
        with self.torch.inference_mode():
            media, tokens, heard = self.given(query)
            markers = {"V": len(query.frames), "A": int(heard)}
            listed = prompt_ids(self.tokenizer, query.system, query.text, any(markers.values()))
            ids = self.torch.tensor([listed], device=self.model.device)
            seen = self.torch.ones_like(ids)
            if any(markers.values()):
                *_, embeds, _ = self.model.prepare_inputs_labels_for_multimodal(
                    ids, None, seen, None, None, **media
                )
            else:
                embeds = self.model.get_model().embed_tokens(ids)
            length = len(listed) - listed.count(IMAGE) + tokens["V"] + tokens["A"]
            if embeds.shape[1] != length:
                raise Refused(
                    f"the prompt has {embeds.shape[1]} places; expected {length}, and at most "
                    f"{LONGEST}, where it is cut"
                )
            row, cache = decoders.prefill(self.model, embeds)
            if query.mode == "letters":
                found = decoders.letters_and_scores(
                    self.model, self.tokenizer, row, cache, query.replies
                )
                return Answer(*found, tokens=tokens, markers=markers)
            end = self.tokenizer.convert_tokens_to_ids("<|im_end|>")
            said = self.model.generate(
                ids, attention_mask=seen, do_sample=False, num_beams=1, repetition_penalty=1.0,
                max_new_tokens=max_new_tokens, eos_token_id=end, pad_token_id=end, **media,
            )  # fmt: skip
        reply = self.tokenizer.decode(said[0], skip_special_tokens=True)
        return Answer(reply=reply, tokens=tokens, markers=markers)


def main() -> None:
    parser = decoders.options(__file__, "video-SALMONN 2 7B")
    parser.add_argument("--repo", help="checkout of https://github.com/bytedance/video-SALMONN-2")
    for tower, own in (
        ("whisper", "openai/whisper-large-v3"),
        ("siglip", "google/siglip-so400m-patch14-384"),
    ):
        parser.add_argument(f"--{tower}", default=own, help="folder, or id on the hub")
        parser.add_argument(f"--{tower}-revision", help="whole commit hash")
    asked = parser.parse_args()
    code = Path(asked.repo or "", "llava", "model", "language_model", "video_salmonn_2.py")
    if not asked.repo or not code.is_file():
        parser.error(
            f"--repo {asked.repo}: no {code.name} in it; expected a checkout of "
            "https://github.com/bytedance/video-SALMONN-2"
        )
    decoders.check_environment(__file__)
    parts = {"weights": decoders.folder(asked.weights, asked.revision)}
    for tower in ("whisper", "siglip"):
        given = getattr(asked, tower), getattr(asked, f"{tower}_revision")
        parts[tower] = decoders.folder(*given, f"--{tower}")
    if "siglip" not in parts["siglip"][0]:
        parser.error(f"--siglip {asked.siglip}: its code asks for 'siglip' in a tower's name")
    decoders.stay_offline()
    sys.path.insert(0, asked.repo)
    import torch

    try:
        torch.cuda.current_device()
    except (AssertionError, RuntimeError) as error:
        sys.exit(f"video-SALMONN 2's code asks for the current CUDA device: {error}")
    model = VideoSALMONN2(*(path for path, _ in parts.values()), asked.device, asked.dtype)
    told = {
        "revision": parts["weights"][1],
        "towers": {
            name: [decoders.called(getattr(asked, name)), parts[name][1]]
            for name in ("whisper", "siglip")
        },
        "files_sha256": {name: decoders.digest(path) for name, (path, _) in parts.items()},
        "code_sha256": decoders.digest(str(Path(asked.repo, "llava")), "*.py"),
    }
    hello = decoders.hello("video-SALMONN 2 7B", asked, model.model, CHOICES, **told)
    serve(hello, lambda query: model.answer(query, asked.max_new_tokens), OUT)


if __name__ == "__main__":
    main()
