"""A quarter of the 7B's widths through the study's path; scripts/full_width.py takes the whole."""

from __future__ import annotations

import pytest

from tests import full_width, published_omni, true_vocabulary

if not true_vocabulary.installed():
    pytest.skip(f"{true_vocabulary.PACKAGE} is not installed", allow_module_level=True)


def test_seven_heads_that_share_keys_go_the_whole_way_in_the_published_format(tmp_path):
    sizes = published_omni.SEVEN_B.narrowed(4)
    assert (sizes.heads, sizes.kv_heads, sizes.hidden // sizes.heads) == (7, 1, 128)
    full_width.check(full_width.go_through(sizes, tmp_path), sizes)
    model = tmp_path / "model"
    assert (model / "model.safetensors.index.json").is_file()
    shards = list(model.glob("model*.safetensors"))
    assert len(shards) > 2 and {path.suffix for path in model.glob("model*")} == {
        ".safetensors",
        ".json",
    }
