"""The state that VITA would answer a recording with, against a plain forward."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch

from emomm_study.media.audio import read_audio
from emomm_study.systems.vita.check import main, state_logits
from tests.backbones import make_vita
from tests.tiny_media import tone


@pytest.fixture(scope="module")
def vita():
    return make_vita()


@pytest.mark.parametrize("system", [None, "You are heard."])
def test_the_states_are_read_after_a_turn_that_holds_the_sound_alone(vita, system):
    sound = tone(0.8, hertz=300).astype(np.float32)
    features = vita.processor.sound(sound)[None]
    with torch.inference_mode():
        [heard] = vita.model.get_audio_features(features, torch.tensor([features.shape[1]]))
        parts = [f"<|im_start|>system\n{system}<|im_end|>\n"] if system else []
        parts += ["<|im_start|>user\n", heard, "<|im_end|>\n<|im_start|>assistant\n"]
        embeds = torch.cat([
            vita.model.get_input_embeddings()(torch.tensor(vita.tokenizer(part)["input_ids"]))
            if isinstance(part, str) else part
            for part in parts
        ])  # fmt: skip
        logits = vita.model(inputs_embeds=embeds[None]).logits[0, -1]
    expected = {name: float(logits[number]) for name, number in vita.state_ids.items()}
    assert state_logits(vita, sound, system) == pytest.approx(expected, abs=1e-5)


def test_the_command_says_of_each_recording_what_it_is_taken_for(vita, tmp_path, capsys):
    vita.model.save_pretrained(tmp_path / "model")
    vita.processor.save_pretrained(tmp_path / "model")
    for hertz in (200, 900):
        soundfile.write(tmp_path / f"{hertz}.wav", tone(0.6, hertz=hertz), 16_000)
    files = [str(tmp_path / f"{hertz}.wav") for hertz in (200, 900)]
    main(["--model", f"{tmp_path / 'model'}?audio=full", "--dtype", "float32", *files])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for line, file in zip(lines, files, strict=True):
        logits = state_logits(vita, read_audio(file))
        assert line.startswith(f"{file.rpartition('/')[2]}: {max(logits, key=logits.get)}  (☜ ")
        assert all(f"{logit:.2f}" in line for logit in logits.values())
