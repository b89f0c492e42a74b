"""The adapters against their models' own paths: plain forwards, and scoring text in full."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings, strategies as st
from tokenizers import AddedToken

from emomm_lib import record
from emomm_lib.labels import COALITIONS, LETTERS
from emomm_study.corpora.scores import GRIDS, Corpus
from emomm_study.media.video import Frames
from emomm_study.mini.model.build import build_processor
from emomm_study.systems.backbone import Backbone
from emomm_study.systems.interface import Media, Query
from emomm_study.systems.omni import OmniModel
from emomm_study.systems.plain import PlainText
from emomm_study.systems.prompts import TranscriptError, reply
from emomm_study.systems.table import load_system
from emomm_study.systems.vita.adapter import STATES, VitaModel
from tests.backbones import HEADS, KINDS, LAYERS, SMALL, clip, plain_vita

SENTENCE = {"zh": "我觉得电影真的精彩", "en": "To me the trip was absolutely awful"}
MADE = {}


@pytest.fixture(scope="module", params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(kind) -> Backbone:
    """A tiny backbone of each kind."""
    return MADE.setdefault(kind, KINDS[kind].make())


@pytest.fixture(scope="module")
def plain_logits(kind):
    """What its own model says without this project."""
    return KINDS[kind].plain


@pytest.fixture(scope="module")
def omni() -> OmniModel:
    return MADE.setdefault("omni", KINDS["omni"].make())


@pytest.mark.parametrize("coalition", COALITIONS)
def test_letter_logits_equal_those_of_the_processor_and_a_plain_forward(
    model, plain_logits, coalition
):
    media = clip(1)
    corpus = Corpus.CMU_MOSI
    expected, _ = plain_logits(model, media, coalition, corpus, SENTENCE["en"])
    [encoded] = model.encode([media])
    answers = model.answer([Query(encoded, coalition, corpus, SENTENCE["en"])])
    np.testing.assert_allclose(
        answers.letter_logits[0], expected[-1, model.letter_ids].float(), atol=1e-5
    )


def test_a_left_padded_mixed_batch_gives_each_row_its_own_answer(model):
    clips = model.encode([clip(i) for i in range(len(COALITIONS))])
    queries = [
        Query(c, k, Corpus.CH_SIMS if i % 2 else Corpus.CMU_MOSI, SENTENCE["zh" if i % 2 else "en"])
        for i, (c, k) in enumerate(zip(clips, COALITIONS, strict=True))
    ]
    together = model.answer(queries)
    for i, query in enumerate(queries):
        alone = model.answer([query])
        np.testing.assert_allclose(together.letter_logits[i], alone.letter_logits[0], atol=1e-5)
        assert together.score[i] == alone.score[0]


@pytest.mark.parametrize("corpus", list(Corpus))
@pytest.mark.parametrize("coalition", ["T", "AV", "TAV"])
def test_the_score_is_the_most_probable_allowed_one_when_each_reply_is_scored_in_full(
    model, plain_logits, corpus, coalition
):
    for seed in range(4):
        media = clip(10 + seed)
        [encoded] = model.encode([media])
        answers = model.answer([Query(encoded, coalition, corpus, SENTENCE["zh"])])
        label = int(answers.label[0])
        totals = {}
        for score in GRIDS[corpus].scores(label):
            text = reply(label, score)
            logits, ids = plain_logits(model, media, coalition, corpus, SENTENCE["zh"], text)
            own = len(model.tokenizer(text)["input_ids"])
            log_probs = logits[:-1].log_softmax(-1)[-own:]
            totals[score] = log_probs.gather(-1, ids[-own:, None]).sum().item()
        assert answers.score[0] == max(totals, key=totals.get)


def test_the_score_always_belongs_to_the_letter(model):
    clips = model.encode([clip(100 + i) for i in range(8)])
    queries = [Query(c, "TAV", Corpus.CH_SIMS, SENTENCE["zh"]) for c in clips]
    answers = model.answer(queries)
    for label, score in zip(answers.label, answers.score, strict=True):
        assert score in GRIDS[Corpus.CH_SIMS].scores(int(label))
        assert 0 <= label < len(LETTERS)


def test_video_alone_never_hears_the_sound(model):
    media = clip(3)
    deaf = Media(media.frames, None)
    both, [alone] = model.encode([media]), model.encode([deaf])
    query = {"coalition": "V", "corpus": Corpus.CMU_MOSI, "transcript": "unused"}
    np.testing.assert_array_equal(
        model.answer([Query(both[0], **query)]).letter_logits,
        model.answer([Query(alone, **query)]).letter_logits,
    )


def test_a_coalition_that_the_clip_cannot_give_is_refused(model):
    [encoded] = model.encode([Media(None, clip(4).sound)])
    with pytest.raises(ValueError, match="needs V"):
        model.answer([Query(encoded, "TV", Corpus.CMU_MOSI, "x")])


def test_saved_and_loaded_it_gives_the_same_logits(model, tmp_path):
    model.model.save_pretrained(tmp_path)
    model.processor.save_pretrained(tmp_path)
    again = load_system(tmp_path)
    answers = [
        m.answer([Query(m.encode([clip(5)])[0], "TAV", Corpus.CMU_MOSI, SENTENCE["en"])])
        for m in (model, again)
    ]
    # Not bit for bit: a kernel may sum in another order when weights lie elsewhere in memory.
    np.testing.assert_allclose(answers[0].letter_logits, answers[1].letter_logits, atol=1e-6)


@pytest.mark.parametrize("corpus", list(Corpus))
def test_modality_ids_mark_transcript_sound_and_frames_and_nothing_else(model, corpus):
    text = SENTENCE["zh" if corpus == Corpus.CH_SIMS else "en"]
    clips = model.encode([clip(20 + i) for i in range(len(COALITIONS))])
    queries = [Query(c, k, corpus, text) for c, k in zip(clips, COALITIONS, strict=True)]
    prompt = model.prepare(queries)
    decode = model.tokenizer.decode
    for row, query in enumerate(queries):
        ids, marks = prompt.input_ids[row], prompt.modality_ids[row]
        assert decode(ids[marks == 0]).strip() == (text if "T" in query.coalition else "")
        assert (marks == 1).sum() == ("A" in query.coalition) * len(query.clip.audio)
        assert (marks == 2).sum() == ("V" in query.coalition) * len(query.clip.video)
        assert (marks[prompt.attention_mask[row] == 0] == -1).all()
    everything = model.prepare(queries, text="all").modality_ids
    assert torch.equal(everything >= 0, prompt.attention_mask.bool())


def test_coalitions_that_share_their_beginnings_answer_as_each_does_alone(model):
    clips = model.encode([clip(40 + i) for i in range(3)])
    queries = [
        Query(c, k, Corpus.CH_SIMS if i else Corpus.CMU_MOSI, SENTENCE["zh" if i else "en"])
        for i, c in enumerate(clips)
        for k in COALITIONS[:: -1 if i == 1 else 1]
    ]
    together = model.answer(queries, trace=True)
    for i, query in enumerate(queries):
        alone = model.answer([query], trace=True)
        np.testing.assert_allclose(together.letter_logits[i], alone.letter_logits[0], atol=1e-5)
        assert together.label[i] == alone.label[0] and together.score[i] == alone.score[0]
        np.testing.assert_allclose(together.mass[i], alone.mass[0], atol=1e-6)
        assert together.counts[i].tolist() == alone.counts[0].tolist()


def test_sharing_saves_three_of_four_videos_and_two_of_four_sounds(model, monkeypatch):
    [encoded] = model.encode([clip(50)])
    queries = [Query(encoded, k, Corpus.CMU_MOSI, SENTENCE["en"]) for k in COALITIONS]
    seen = []
    decoder = type(model.decoder)
    plain = decoder.forward

    def count(self, *args, **given):
        width = given["inputs_embeds"].shape[1]
        seen.append(int(given["attention_mask"][:, -width:].sum()))
        return plain(self, *args, **given)

    monkeypatch.setattr(decoder, "forward", count)
    monkeypatch.setattr(Backbone, "best_scores", lambda self, queries, *_: [0.0] * len(queries))
    model.answer(queries)
    shared, seen[:] = sum(seen), []
    for query in queries:
        model.answer([query])
    # Beginnings hold the system prompt as well, so that a little more is saved.
    saved = 3 * len(encoded.video) + 2 * len(encoded.audio)
    assert saved <= sum(seen) - shared <= saved + 40


def test_a_traced_answer_is_the_same_answer_with_the_attention_of_a_plain_forward(
    model, plain_logits
):
    [encoded] = model.encode([clip(6)])
    query = Query(encoded, "TAV", Corpus.CMU_MOSI, SENTENCE["en"])
    padded = Query(encoded, "T", Corpus.CMU_MOSI, SENTENCE["en"])
    plain, traced = model.answer([query, padded]), model.answer([query, padded], trace=True)
    np.testing.assert_array_equal(plain.letter_logits, traced.letter_logits)
    np.testing.assert_array_equal(plain.score, traced.score)
    assert plain.mass is None and traced.mass.shape == (2, LAYERS, HEADS, 3)
    assert (traced.mass[1, :, :, 1:] == 0).all() and traced.counts[1, 1:].tolist() == [0, 0]
    prompt = model.prepare([query])
    with record(model.model, prompt.modality_ids) as trace:
        plain_logits(model, clip(6), "TAV", Corpus.CMU_MOSI, SENTENCE["en"])
    np.testing.assert_allclose(traced.mass[0], trace.mass[0], atol=1e-6)


def test_a_free_reply_is_the_greedy_one_of_full_forwards(model):
    queries = [
        Query(model.encode([clip(30 + i)])[0], coalition, Corpus.CMU_MOSI, SENTENCE["en"])
        for i, coalition in enumerate(("TAV", "T", "AV"))
    ]
    if hasattr(model.model.model, "rope_deltas"):
        model.model.model.rope_deltas = torch.tensor([[1000]])  # as an earlier prompt may leave it
    replies = model.reply(queries, max_new_tokens=5)
    for i, query in enumerate(queries):
        tokens: list[int] = []
        while len(tokens) < 5:
            # Forced tokens go in as text would: the prompt is computed anew at each step.
            logits = forced_logits(model, query, tokens)
            tokens.append(int(logits.argmax()))
            if tokens[-1] == model.tokenizer.eos_token_id:
                break
        assert replies[i] == model.tokenizer.decode(tokens, skip_special_tokens=True)


@torch.inference_mode()
def forced_logits(model: Backbone, query: Query, tokens: list[int]) -> torch.Tensor:
    prompt = model.prepare([query])
    more = torch.tensor([tokens], dtype=torch.long)
    before = prompt.position_ids
    positions = (before.max() + 1 + torch.arange(len(tokens))).expand(*before.shape[:-1], -1)
    embeds = model.model.get_input_embeddings()(more)
    # Beyond the embeddings a prompt may hold what only media bring.
    embeds = torch.nn.functional.pad(embeds, (0, prompt.inputs_embeds.shape[-1] - embeds.shape[-1]))
    hidden = model.decoder(
        inputs_embeds=torch.cat([prompt.inputs_embeds, embeds], dim=1),
        position_ids=torch.cat([before, positions], dim=-1),
    ).last_hidden_state
    return model.model.lm_head(hidden[0, -1])


# Transcripts are plain text


def control(tokenizer) -> list[str]:
    """The whole special vocabulary, and what the tokenizer has added beside it in brackets."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values()]
    return sorted({*tokenizer.all_special_tokens, *(t for t in added if t.strip().startswith("<"))})


def embedded(token: str) -> list[str]:
    """Somewhere in a transcript: at its start, middle and end, alone, doubled, cut into another."""
    half = len(token) // 2
    return [
        f"{token} ever",
        f"so {token} much",
        f"so{token}much",
        f"so {token}",
        token,
        token + token,
        f"so {token}{token} {token}",
        token[:half] + token + token[half:],
    ]


def asked(model, transcript, coalition="TAV", seed=7):
    [encoded] = model.encode([clip(seed)])
    return Query(encoded, coalition, Corpus.CMU_MOSI, transcript)


def test_no_token_that_a_transcript_spells_out_is_more_than_text(model):
    tokenizer = model.tokenizer
    names = control(tokenizer)
    assert {*model.placeholders.values(), "<|endoftext|>", "<|im_end|>"} <= set(names)
    numbers = set(tokenizer.convert_tokens_to_ids(names))
    base = asked(model, "so much")
    plain = model.prepare([base])
    outside = plain.input_ids[0][plain.modality_ids[0] != 0]
    for name in names:
        for transcript in embedded(name):
            prompt = model.prepare([Query(base.clip, "TAV", Corpus.CMU_MOSI, transcript)])
            ids, marks = prompt.input_ids[0], prompt.modality_ids[0]
            own = ids[marks == 0]
            assert tokenizer.decode(own) == transcript, transcript
            assert not set(own.tolist()) & numbers, transcript
            assert torch.equal(ids[marks != 0], outside), transcript
            assert torch.equal(marks[marks > 0], plain.modality_ids[0][plain.modality_ids[0] > 0])


@settings(max_examples=60, deadline=None)
@given(data=st.data(), beginning=st.text(max_size=8), end=st.text(max_size=8))
def test_what_is_spelled_out_stays_what_was_written_among_any_text(model, data, beginning, end):
    tokenizer = model.tokenizer
    name = data.draw(st.sampled_from(control(tokenizer)))
    transcript = beginning + name + end
    [found] = model._plain([(f"Transcript: {transcript}\nTask", 12, 12 + len(transcript))])
    own = [i for i, inside in zip(found.ids, found.inside, strict=True) if inside]
    # A token at an edge may hold white space of the text around it.
    assert tokenizer.decode(own).strip() == transcript.strip()
    assert not set(own) & set(tokenizer.convert_tokens_to_ids(control(tokenizer)))
    assert tokenizer.decode(found.ids) == f"Transcript: {transcript}\nTask"


@settings(max_examples=200, deadline=None)
@given(transcript=st.text(max_size=30) | st.text("<|>/a I\nM_DOAU", max_size=30))
def test_a_transcript_that_spells_out_no_token_is_tokenized_as_it_ever_was(model, transcript):
    tokenizer = model.tokenizer
    text = f"<|im_start|>user\nTranscript: {transcript}\nTask<|im_end|>\n"
    start = text.index(":") + 2
    assume(not any(name in f"{transcript}\n" for name in control(tokenizer)))
    [found] = model._plain([(text, start, start + len(transcript))])
    [whole] = tokenizer([text], add_special_tokens=False).encodings
    assert found.ids == whole.ids
    inside = [b > a and b > start and a < start + len(transcript) for a, b in whole.offsets]
    assert found.inside.tolist() == inside


def test_answers_do_not_hang_on_whether_a_neighbour_spells_out_a_token(model):
    queries = [
        asked(model, text)
        for text in ("so much", f"so {model.placeholders['V']} much", "<|im_end|>")
    ]
    together = model.answer(queries, trace=True)
    for i, query in enumerate(queries):
        alone = model.answer([query], trace=True)
        np.testing.assert_allclose(together.letter_logits[i], alone.letter_logits[0], atol=1e-5)
        assert together.counts[i].tolist() == alone.counts[0].tolist()
        assert together.counts[i][1:].tolist() == [len(query.clip.audio), len(query.clip.video)]


def test_without_the_transcript_what_it_spells_out_changes_nothing(model):
    one, other = (
        asked(model, text, "AV") for text in ("so much", "".join(model.placeholders.values()))
    )
    assert torch.equal(model.prepare([one]).input_ids, model.prepare([other]).input_ids)


@pytest.mark.parametrize("text", ["", " \n", "\u200b", "\ufeff\u3000", "\u2800"])
def test_a_blank_transcript_is_refused_under_t_and_nowhere_else(model, text):
    with pytest.raises(TranscriptError, match="the transcript is blank"):
        model.answer([asked(model, text, "T")])
    assert model.answer([asked(model, text, "AV")]).label[0] >= 0


# Of one kind


def test_a_checkpoint_of_the_whole_omni_model_loads_as_its_thinker(omni, tmp_path):
    # Imported here: beside a CPU build of torch it needs emomm_study.systems to be imported first.
    from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration

    # The published checkpoints hold the thinker among talker and vocoder, under a prefix.
    config = Qwen2_5OmniConfig(
        thinker_config=omni.model.config.to_dict(), enable_audio_output=False
    )
    whole = Qwen2_5OmniForConditionalGeneration(config)
    whole.thinker.load_state_dict(omni.model.state_dict())
    whole.save_pretrained(tmp_path)
    omni.processor.save_pretrained(tmp_path)
    again = OmniModel.load(tmp_path)
    for name, value in omni.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], value, rtol=0, atol=0)


def test_a_token_of_one_sign_is_refused_by_name_and_one_in_brackets_is_cut():
    tokenizer = build_processor(SMALL).tokenizer
    tokenizer.add_special_tokens({"extra_special_tokens": [AddedToken("\u00a7", special=True)]})
    tokenizer.add_tokens([AddedToken("<tool_call>", special=False)])
    plain = PlainText(tokenizer)
    with pytest.raises(TranscriptError, match="\u00a7.*for control tokens"):
        plain([("see \u00a7 4", 0, 7)])
    text = "so <tool_call> much"
    [found] = plain([(text, 0, len(text))])
    assert tokenizer.decode(found.ids) == text
    assert tokenizer.convert_tokens_to_ids("<tool_call>") not in found.ids


def test_sound_beyond_the_window_is_heard_to_its_end(omni) -> None:
    """Seven seconds and a half, where the feature extractor's window is three."""
    rng = np.random.default_rng(3)
    short, whole = (
        Media(None, 0.1 * rng.standard_normal(n).astype(np.float32)) for n in (30_000, 120_000)
    )
    first, long, last = omni.encode([short, whole, short])
    for found, usual in zip((first, last), omni.encode([short, short]), strict=True):
        assert torch.equal(found.audio, usual.audio)
    assert len(long.audio) == pytest.approx(25 * 7.5, abs=1)
    end = whole.sound.copy()
    end[-16_000:] *= -0.5
    [other] = omni.encode([Media(None, end)])
    assert torch.equal(long.audio[:100], other.audio[:100])
    assert not torch.allclose(long.audio[-10:], other.audio[-10:])


def test_sounds_are_padded_no_further_than_changes_their_features(omni, monkeypatch):
    """The published window is 300 s: its features would take a second of a core a clip."""
    small = omni.processor.feature_extractor
    wide = type(small)(feature_size=small.feature_size, chunk_length=30)
    monkeypatch.setattr(omni.processor, "feature_extractor", wide)
    rng = np.random.default_rng(5)
    lengths = [401, 15_999, 47_600, 47_601, 96_000, wide.n_samples - 100]
    sounds = [0.1 * rng.standard_normal(n).astype(np.float32) for n in lengths]
    assert [omni._padded([s]) // 16_000 for s in sounds] == [3, 3, 3, 6, 9, 30]
    settings = {"sampling_rate": 16_000, "return_attention_mask": True, "return_tensors": "pt"}
    for sound in sounds:
        whole = wide([sound], padding="max_length", **settings)
        due = omni._padded([sound])
        found = wide([sound], padding="max_length", max_length=due, **settings)
        frames = int(whole["attention_mask"].sum())
        assert int(found["attention_mask"].sum()) == frames
        features = (f["input_features"][..., :frames] for f in (found, whole))
        torch.testing.assert_close(*features, rtol=0, atol=1e-6)
    seen = []
    inner = omni.model.get_audio_features
    monkeypatch.setattr(
        omni.model, "get_audio_features", lambda f, **m: seen.append(f.shape) or inner(f, **m)
    )
    omni.encode([Media(None, sound) for sound in sounds[:3]])
    assert seen == [(3, small.feature_size, 300)]


@pytest.fixture(scope="module")
def vita() -> VitaModel:
    return MADE.setdefault("vita", KINDS["vita"].make())


@pytest.mark.parametrize("coalition", COALITIONS)
def test_a_letter_read_one_position_too_early_would_be_found_out(vita, coalition):
    expected, ids = plain_vita(vita, clip(1), coalition, Corpus.CH_SIMS, SENTENCE["zh"])
    due = STATES.speech if "A" in coalition else STATES.text
    assert vita.tokenizer.decode(ids[-1:]) == due
    [encoded] = vita.encode([clip(1)])
    answers = vita.answer([Query(encoded, coalition, Corpus.CH_SIMS, SENTENCE["zh"])])
    early, due = expected[-2:, vita.letter_ids]
    np.testing.assert_allclose(answers.letter_logits[0], due, atol=1e-5)
    assert (early - due).abs().max() > 0.05


def test_the_state_that_it_would_write_is_read_where_it_would_write_it(vita):
    clips = vita.encode([clip(20 + i) for i in range(len(COALITIONS))])
    queries = [
        Query(c, k, Corpus.CMU_MOSI, SENTENCE["en"]) for c, k in zip(clips, COALITIONS, strict=True)
    ]
    answers = vita.answer(queries, trace=True)
    for i, (query, said) in enumerate(zip(queries, answers.details, strict=True)):
        given = query.coalition, query.corpus, query.transcript
        logits = plain_vita(vita, clip(20 + i), *given)[0][-2]
        expected = {name: float(logits[token]) for name, token in vita.state_ids.items()}
        assert said["state_logits"] == pytest.approx(expected, abs=1e-5)
        assert said["declined"] == (max(expected, key=expected.get) == "noise")


def test_a_prompt_longer_than_the_model_takes_is_refused_before_it_runs(vita, monkeypatch):
    query = asked(vita, "so much")
    long = vita.prepare([query]).input_ids.shape[1]
    monkeypatch.setattr(vita, "longest", long)
    vita.prepare([query])
    monkeypatch.setattr(vita, "longest", long - 1)
    with pytest.raises(ValueError, match=f"a prompt of {long} tokens: the model takes {long - 1}"):
        vita.answer([query])


def test_of_a_wide_frame_the_middle_is_seen_and_its_tokens_lie_there(vita):
    rng = np.random.default_rng(8)
    wide = rng.integers(0, 256, (2, 56, 100, 3), dtype=np.uint8)
    top, left, height, width = vita.seen(56, 100)
    assert (top, left, height, width) == (0, 22, 56, 56)
    middle = np.ascontiguousarray(wide[:, :, left : left + width])
    region = np.zeros(wide.shape[:3], bool)
    region[:, :28, :50] = True  # the upper left quarter of what is seen, and what is not seen
    media = [
        Media(Frames(wide, 2.0), None),
        Media(Frames(middle, 2.0), None),
        Media(Frames(wide, 2.0), None, region),
    ]
    whole, cut, masked = vita.encode(media)
    torch.testing.assert_close(whole.video, cut.video)
    assert vita.video_grid(whole.grid) == (2, 2, 2)
    assert masked.kept.view(2, 2, 2).tolist() == [[[True, False], [False, False]]] * 2
    torch.testing.assert_close(masked.video, whole.video[masked.kept])


def test_a_reply_loses_the_state_token_that_the_model_writes_before_it(vita):
    said = f"{STATES.speech}E\nScore: 1.0"
    assert vita._said(said) == vita._said(f" {said}") == "E\nScore: 1.0"
    assert vita._said("A ☜") == "A ☜"


def test_a_tokenizer_without_the_state_tokens_is_refused_by_name(vita):
    processor = SimpleNamespace(tokenizer=build_processor(SMALL).tokenizer, side=56)
    with pytest.raises(ValueError, match=r"one token for each state of VITA; it has not for"):
        VitaModel(vita.model, processor, "random")
