# /// script
# requires-python = ">=3.10,<3.12"
# dependencies = [
#     "torch==2.3.1",
#     "torchaudio==2.3.1",
#     "torchvision==0.18.1",
#     "transformers==4.44.2",
#     "accelerate==1.2.1",
#     "timm==0.9.10",
#     "librosa==0.9.0",
#     "soundfile==0.12.1",
#     "pillow==10.1.0",
#     "numpy<2",
#     "setuptools<81",
# ]
# ///
"""MiniCPM-o 2.6 behind the drivers' protocol, by the code that comes with its weights.

usage: uv run --script minicpm_o.py --weights openbmb/MiniCPM-o-2_6 --revision COMMIT \
--trust-remote-code

That code is run as it is: without ``--trust-remote-code`` the driver does not start. Contents come
as a plain list, frames, sound, text, under a system message. The model answers behind
``<|tts_bos|>`` where there is sound and behind the assistant's header where there is none, as its
own ``chat`` has it; the letters are read there, at the last position of the prompt.
"""

from __future__ import annotations

from serving import Answer, Query, Refused, read_frames, read_sound, serve, take_stdout

OUT = take_stdout() if __name__ == "__main__" else None

import json  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import decoders  # noqa: E402

FRAME, SOUND = "(<image>./</image>)", "(<audio>./</audio>)"
CHOICES = {
    "contents": "frames, sound, text as a plain list, joined by newlines",
    "omni_input": False,
    "system": "role system",
    "letters": "last prompt position: after <|tts_bos|> with sound, after the assistant's header "
    "without",
    "chunk_input": True,
    "max_slice_nums": 1,
    "use_image_id": False,
    "init_tts": False,
    "attention": "sdpa",
    "decoding": "greedy, one beam, repetition_penalty 1.0",
    "seconds_per_frame": "not told to the model",
}


def turns(query: Query) -> list:
    """The chat with a mark for every frame and for the sound, as ``chat`` makes it of its list."""
    marks = [FRAME] * len(query.frames) + [SOUND] * (query.sound is not None)
    return [
        {"role": "system", "content": query.system},
        {"role": "user", "content": "\n".join([*marks, query.text])},
    ]


def blocks(ids: list, start: int, end: int) -> tuple:
    """How many runs of media a prompt has, and how many tokens lie in them.

    Runs that touch are one: a sound's pieces of a second follow each other with nothing between.
    """
    runs = tokens = 0
    opened = before = None
    for at, number in enumerate(ids):
        if number == start:
            runs += opened is None and before != at - 1
            opened = at
        elif number == end:
            if opened is None:
                raise Refused("a place for media ends in the prompt that has not begun")
            tokens += at - opened - 1
            opened, before = None, at
    if opened is not None:
        raise Refused("a place for media begins in the prompt that does not end")
    return runs, tokens


def check_code(folder: str) -> None:
    """End where a file of the folder names code that lies elsewhere, whose revision nobody named."""
    for file in sorted(Path(folder).glob("*.json")):
        named = json.loads(file.read_text(encoding="utf-8"))
        for name in map(str, named.get("auto_map", {}).values() if type(named) is dict else ()):
            if "--" in name:
                sys.exit(
                    f"{file} takes code from {name}, of no revision; where the folder has it too, "
                    "take all up to the -- away, in a copy of the folder"
                )


class MiniCPMO:
    """The model and its processor, from one folder."""

    def __init__(self, folder: str, device: str, dtype: str, max_new_tokens: int) -> None:
        import torch
        from transformers import AutoModel

        self.model = AutoModel.from_pretrained(
            folder, trust_remote_code=True, attn_implementation="sdpa",
            torch_dtype=getattr(torch, dtype), init_vision=True, init_audio=True, init_tts=False,
        )  # fmt: skip
        self.model.eval().to(device)
        if self.model.config.chunk_input is not True:
            sys.exit(f"{folder}: chunk_input is {self.model.config.chunk_input!r}; expected True")
        self.processor = self.model.processor
        self.tokenizer = self.processor.tokenizer
        self.max_new_tokens = max_new_tokens
        self._inference = torch.inference_mode

    def inputs(self, query: Query) -> tuple:
        """What the model takes, and the tokens and marks of its prompt."""
        decoders.check_text(query, self.tokenizer, (FRAME, SOUND))
        frames, sound = read_frames(query), read_sound(query)
        sounds = [] if sound is None else [sound]
        text = self.tokenizer.apply_chat_template(
            turns(query),
            tokenize=False,
            add_generation_prompt=True,
            chat_template=self.model.default_tts_chat_template if sounds else None,
        )
        inputs = self.processor(
            [text], [frames], [sounds], [[1] * len(sounds)],
            max_slice_nums=1, use_image_id=False, chunk_input=True, return_tensors="pt",
        ).to(self.model.device)  # fmt: skip
        inputs.pop("image_sizes")
        ids, names = inputs["input_ids"][0].tolist(), self.tokenizer
        longest = self.model.config.max_position_embeddings
        if len(ids) > longest:
            raise Refused(f"the prompt has {len(ids)} tokens; the model takes {longest}")
        images, video = blocks(ids, names.im_start_id, names.im_end_id)
        heard, audio = blocks(ids, names.audio_start_id, names.audio_end_id)
        if sounds:
            lengths = inputs["audio_feature_lens"][0]
            _, pooled = self.model._get_feat_extract_output_lengths(lengths)
            if not 0 < audio == int(pooled.sum()):
                raise Refused(
                    f"the sound of {len(sound)} samples has {int(pooled.sum())} embeddings for "
                    f"{audio} places"
                )
        counts = {"T": decoders.transcript_tokens(query, names), "A": audio, "V": video}
        return inputs, counts, {"V": images, "A": heard}

    def embeddings(self, inputs):
        """The prompt's embeddings, as the model's own ``generate`` makes them."""
        embeds, _ = self.model.get_vllm_embedding(inputs)
        chunk = self.model.config.audio_chunk_length
        return self.model.get_omni_embedding(inputs, input_embeddings=embeds, chunk_length=chunk)

    def answer(self, query: Query) -> Answer:
        with self._inference():
            inputs, tokens, markers = self.inputs(query)
            row, cache = decoders.prefill(self.model.llm, self.embeddings(inputs))
            if query.mode == "letters":
                found = decoders.letters_and_scores(
                    self.model.llm, self.tokenizer, row, cache, query.replies
                )
                return Answer(*found, tokens=tokens, markers=markers)
            said, _ = self.model.generate(
                **inputs, tokenizer=self.tokenizer, max_new_tokens=self.max_new_tokens,
                do_sample=False, num_beams=1, repetition_penalty=1.0,
            )  # fmt: skip
        reply = said[0].replace(self.tokenizer.tts_end, "")
        return Answer(reply=reply, tokens=tokens, markers=markers)


def main() -> None:
    parser = decoders.options(__file__, "MiniCPM-o 2.6")
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="run the code that lies with the weights"
    )
    asked = parser.parse_args()
    if not asked.trust_remote_code:
        parser.error(
            "MiniCPM-o 2.6 is run by Python code that lies with its weights; read it, and say "
            "--trust-remote-code to have it run"
        )
    decoders.check_environment(__file__)
    folder, revision = decoders.folder(asked.weights, asked.revision)
    check_code(folder)
    decoders.stay_offline()
    model = MiniCPMO(folder, asked.device, asked.dtype, asked.max_new_tokens)
    told = {
        "revision": revision,
        "files_sha256": decoders.digest(folder),
        "code_sha256": decoders.digest(folder, "*.py"),
    }
    hello = decoders.hello("MiniCPM-o 2.6", asked, model.model, CHOICES, **told)
    serve(hello, model.answer, OUT)


if __name__ == "__main__":
    main()
