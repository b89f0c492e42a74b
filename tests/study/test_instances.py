"""Figure 2 (right) and the sheet of clips: which clips are shown, and what of them is hidden."""

from __future__ import annotations

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
import pandas as pd
import pytest
import soundfile
from legible import assert_legible
from matplotlib import pyplot as plt
from tiny_media import grey_frames, write_mp4

from emomm_study.report.clips import faithful
from emomm_study.report.figures.instances import SHOWN, figure2_right, instances


def manifest(count: int = 12) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    labels = {f"label_{s}": rng.integers(0, 5, count) for s in ("gt", "t", "a", "v")}
    frame = pd.DataFrame({"sample_id": [f"c{k:02}" for k in range(count)], **labels})
    subset = np.where(np.arange(count) % 3 == 0, "align", "conflict")
    return frame.assign(
        corpus="cmu_mosi", language="en", subset=subset, text="I did not expect that, honestly",
        video_path="a.mp4", audio_path="a.wav",
    )  # fmt: skip


@pytest.fixture
def roots(tmp_path):
    write_mp4(tmp_path / "a.mp4", frames=grey_frames(8))
    soundfile.write(tmp_path / "a.wav", np.sin(np.arange(16000) / 20), 16000)
    return {"cmu_mosi": tmp_path}


def test_a_clip_that_shows_another_class_than_its_label_is_not_faithful():
    clips = manifest()
    plans = clips[["sample_id"]].assign(**{f"shown_{m}": clips[f"label_{m}"] for m in "tav"})
    assert faithful(clips, plans.sample(frac=1, random_state=0)).equals(clips)
    plans.loc[3, "shown_v"] = (plans.loc[3, "shown_v"] + 1) % 5
    plans = plans.drop(index=5)
    left = faithful(clips, plans)["sample_id"].tolist()
    assert left == [f"c{k:02}" for k in range(12) if k not in (3, 5)]


def test_each_subset_has_a_clip_of_its_own_and_missing_another_than_both():
    for seed in range(20):
        found = instances(manifest(), seed=seed)
        assert list(found) == list(SHOWN)
        assert found["align"]["subset"] == "align" and found["conflict"]["subset"] == "conflict"
        assert len({clip["sample_id"] for clip in found.values()}) == 3
    assert list(instances(manifest().query("subset == 'align'"))) == ["align", "missing"]
    mixed = manifest().assign(language=["zh"] * 9 + ["en"] * 3)
    found = instances(mixed)
    assert {name: clip["language"] for name, clip in found.items()} == dict.fromkeys(SHOWN, "en")
    assert set(instances(mixed.assign(language="zh"))) == set(SHOWN)
    with pytest.raises(ValueError, match="clips: no rows"):
        instances(manifest().head(0))


def test_what_is_hidden_is_said_and_not_shown_and_the_rest_is_there(roots):
    chosen = instances(manifest())
    fig = figure2_right(chosen, roots)
    words = [t.get_text() for t in fig.findobj(mpl.text.Text) if t.get_text()]
    assert sum(word.startswith("“I did not") for word in words) == 3
    assert words.count("no sound") == words.count("A hidden") == 1
    assert sum(len(ax.images) for ax in fig.axes) == 6
    assert sum(len(ax.collections) for ax in fig.axes) == 2
    assert [w for w in words if w.partition(":")[0] in ("Align", "Conflict", "Missing")] == [
        "Align", "Conflict", "Missing: audio hidden",
    ]  # fmt: skip
    plt.close(fig)


def test_no_words_of_the_instances_overlap_or_leave_the_page(roots):
    clips = manifest().assign(text="这次晚饭算是没意思 and another long remark about the dinner")
    fig = figure2_right(instances(clips), roots)
    assert_legible(fig)
    plt.close(fig)
