"""The page for a stranger's model, executed on tiny models of other architectures."""

from __future__ import annotations

import ast
import re

import pandas as pd
import pytest
import torch
from tiny_models import MAKERS, fingerprint, inputs, make

from emomm_study.paths import ROOT

PAGE = (ROOT / "docs" / "your_own_model.md").read_text(encoding="utf-8")
[CODE] = re.findall(r"^```python stranger\n(.*?)^```$", PAGE, re.S | re.M)


@pytest.mark.parametrize("name", MAKERS)
def test_a_stranger_records_trains_steers_and_sweeps_by_the_page(name, capsys):
    model = make(name)
    tokens, mask, ids = inputs(padded=False)
    # The page marks audio and video by their tokens.
    tokens = torch.where(ids == 1, 91, torch.where(ids == 2, 92, tokens))
    transcript = ids == 0
    labels = pd.DataFrame(
        {"sample_id": ["a", "b", "c"], "label_gt": [0, 4, 2], "label_t": [0, 4, 1],
         "label_a": [4, 4, 2], "label_v": [0, 1, 2]}
    )  # fmt: skip
    scope = {
        "model": model, "inputs": {"input_ids": tokens, "attention_mask": mask},
        "audio_token": 91, "video_token": 92, "transcript": transcript, "labels": labels,
    }  # fmt: skip
    before = fingerprint(model)
    run = compile(CODE, "your_own_model.md", "exec")
    if name == "gemma3":
        with pytest.raises(NotImplementedError, match="DynamicSlidingWindowLayer cannot be"):
            exec(run, scope)
    else:
        exec(run, scope)
        assert scope["replayed"].hidden.shape == (3, 4, 32)
        assert scope["decisions"].conflict.shape == (3, 4, 3)
    assert scope["steered"].decisions.conflict.shape == (3, 1, 3)
    assert len(scope["history"]) == 10
    assert fingerprint(model) == before
    assert "p by layer" in capsys.readouterr().out


def test_the_page_is_short_and_imports_nothing_but_the_library():
    lines = [line for line in CODE.splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 25
    imported = {
        alias.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(ast.parse(CODE))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert imported == {"emomm_lib", "dataclasses"}
