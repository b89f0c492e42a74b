"""The adapter against transformers' own path: processor, forward, and scoring text in full."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings, strategies as st
from tokenizers import AddedToken

from emomm_lib import record
from emomm_lib.labels import COALITIONS, LETTERS
from emomm_study.corpora.scores import GRIDS, Corpus
from emomm_study.media.video import Frames
from emomm_study.mini.model.build import MiniConfig, build_model, build_processor
from emomm_study.systems.interface import Media, Query
from emomm_study.systems.omni import OmniModel
from emomm_study.systems.plain import PlainText
from emomm_study.systems.prompts import TranscriptError, messages, reply

SMALL = MiniConfig(hidden=32, layers=2, heads=4, kv_heads=2, ffn=32, vision_hidden=32,
                   vision_layers=1, vision_heads=2, vision_ffn=32, audio_hidden=32,
                   audio_layers=1, audio_heads=2, audio_ffn=32, side=56)  # fmt: skip
SENTENCE = {"zh": "我觉得电影真的精彩", "en": "To me the trip was absolutely awful"}


@pytest.fixture(scope="module")
def omni() -> OmniModel:
    torch.manual_seed(0)
    processor = build_processor(SMALL)
    model = build_model(processor, SMALL)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return OmniModel(model, processor, "random")


def clip(seed: int) -> Media:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (4, SMALL.side, SMALL.side, 3), dtype=np.uint8)
    sound = 0.1 * rng.standard_normal(rng.integers(12_000, 40_000))
    return Media(Frames(frames, fps=2.0), sound.astype(np.float32))


@torch.inference_mode()
def plain_logits(omni: OmniModel, media: Media, coalition: str, corpus: Corpus, text: str, tail=""):
    """Logits of one prompt (and a forced reply) by the processor and the model alone."""
    prompt = omni.processor.apply_chat_template(
        messages(coalition, corpus, text), tokenize=False, add_generation_prompt=True
    )
    inputs = omni.processor(
        text=[prompt + tail],
        videos=[media.frames.frames] if "V" in coalition else None,
        audio=[media.sound] if "A" in coalition else None,
        videos_kwargs={"size": omni.frame_size, "do_sample_frames": False, "fps": media.frames.fps},
        return_tensors="pt",
    )
    return omni.model(**inputs).logits[0], inputs["input_ids"][0]


@pytest.mark.parametrize("coalition", COALITIONS)
def test_letter_logits_equal_those_of_the_processor_and_a_plain_forward(omni, coalition):
    media = clip(1)
    corpus = Corpus.CMU_MOSI
    expected, _ = plain_logits(omni, media, coalition, corpus, SENTENCE["en"])
    [encoded] = omni.encode([media])
    answers = omni.answer([Query(encoded, coalition, corpus, SENTENCE["en"])])
    np.testing.assert_allclose(
        answers.letter_logits[0], expected[-1, omni.letter_ids].float(), atol=1e-5
    )


def test_a_left_padded_mixed_batch_gives_each_row_its_own_answer(omni):
    clips = omni.encode([clip(i) for i in range(len(COALITIONS))])
    queries = [
        Query(c, k, Corpus.CH_SIMS if i % 2 else Corpus.CMU_MOSI, SENTENCE["zh" if i % 2 else "en"])
        for i, (c, k) in enumerate(zip(clips, COALITIONS, strict=True))
    ]
    together = omni.answer(queries)
    for i, query in enumerate(queries):
        alone = omni.answer([query])
        np.testing.assert_allclose(together.letter_logits[i], alone.letter_logits[0], atol=1e-5)
        assert together.score[i] == alone.score[0]


@pytest.mark.parametrize("corpus", list(Corpus))
@pytest.mark.parametrize("coalition", ["T", "AV", "TAV"])
def test_the_score_is_the_most_probable_allowed_one_when_each_reply_is_scored_in_full(
    omni, corpus, coalition
):
    for seed in range(4):
        media = clip(10 + seed)
        [encoded] = omni.encode([media])
        answers = omni.answer([Query(encoded, coalition, corpus, SENTENCE["zh"])])
        label = int(answers.label[0])
        totals = {}
        for score in GRIDS[corpus].scores(label):
            text = reply(label, score)
            logits, ids = plain_logits(omni, media, coalition, corpus, SENTENCE["zh"], text)
            own = len(omni.processor.tokenizer(text)["input_ids"])
            log_probs = logits[:-1].log_softmax(-1)
            totals[score] = log_probs.gather(-1, ids[1:, None])[-own:].sum().item()
        assert answers.score[0] == max(totals, key=totals.get)


def test_the_score_always_belongs_to_the_letter(omni):
    clips = omni.encode([clip(100 + i) for i in range(8)])
    queries = [Query(c, "TAV", Corpus.CH_SIMS, SENTENCE["zh"]) for c in clips]
    answers = omni.answer(queries)
    for label, score in zip(answers.label, answers.score, strict=True):
        assert score in GRIDS[Corpus.CH_SIMS].scores(int(label))
        assert 0 <= label < len(LETTERS)


def test_video_alone_never_hears_the_sound(omni):
    media = clip(3)
    deaf = Media(media.frames, None)
    both, [alone] = omni.encode([media]), omni.encode([deaf])
    query = {"coalition": "V", "corpus": Corpus.CMU_MOSI, "transcript": "unused"}
    np.testing.assert_array_equal(
        omni.answer([Query(both[0], **query)]).letter_logits,
        omni.answer([Query(alone, **query)]).letter_logits,
    )


def test_a_coalition_that_the_clip_cannot_give_is_refused(omni):
    [encoded] = omni.encode([Media(None, clip(4).sound)])
    with pytest.raises(ValueError, match="needs V"):
        omni.answer([Query(encoded, "TV", Corpus.CMU_MOSI, "x")])


def test_saved_and_loaded_it_gives_the_same_logits(omni, tmp_path):
    omni.model.save_pretrained(tmp_path)
    omni.processor.save_pretrained(tmp_path)
    again = OmniModel.load(tmp_path)
    answers = [
        m.answer([Query(m.encode([clip(5)])[0], "TAV", Corpus.CMU_MOSI, SENTENCE["en"])])
        for m in (omni, again)
    ]
    # Not bit for bit: a kernel may sum in another order when weights lie elsewhere in memory.
    np.testing.assert_allclose(answers[0].letter_logits, answers[1].letter_logits, atol=1e-6)


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


def test_a_folder_without_a_model_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="config.json"):
        OmniModel.load(tmp_path)


@pytest.mark.parametrize("corpus", list(Corpus))
def test_modality_ids_mark_transcript_sound_and_frames_and_nothing_else(omni, corpus):
    text = SENTENCE["zh" if corpus == Corpus.CH_SIMS else "en"]
    clips = omni.encode([clip(20 + i) for i in range(len(COALITIONS))])
    queries = [Query(c, k, corpus, text) for c, k in zip(clips, COALITIONS, strict=True)]
    prompt = omni.prepare(queries)
    decode = omni.processor.tokenizer.decode
    for row, query in enumerate(queries):
        ids, marks = prompt.input_ids[row], prompt.modality_ids[row]
        assert decode(ids[marks == 0]).strip() == (text if "T" in query.coalition else "")
        assert (marks == 1).sum() == ("A" in query.coalition) * len(query.clip.audio)
        assert (marks == 2).sum() == ("V" in query.coalition) * len(query.clip.video)
        assert (marks[prompt.attention_mask[row] == 0] == -1).all()
    everything = omni.prepare(queries, text="all").modality_ids
    assert torch.equal(everything >= 0, prompt.attention_mask.bool())


def test_coalitions_that_share_their_beginnings_answer_as_each_does_alone(omni):
    clips = omni.encode([clip(40 + i) for i in range(3)])
    queries = [
        Query(c, k, Corpus.CH_SIMS if i else Corpus.CMU_MOSI, SENTENCE["zh" if i else "en"])
        for i, c in enumerate(clips)
        for k in COALITIONS[:: -1 if i == 1 else 1]
    ]
    together = omni.answer(queries, trace=True)
    for i, query in enumerate(queries):
        alone = omni.answer([query], trace=True)
        np.testing.assert_allclose(together.letter_logits[i], alone.letter_logits[0], atol=1e-5)
        assert together.label[i] == alone.label[0] and together.score[i] == alone.score[0]
        np.testing.assert_allclose(together.mass[i], alone.mass[0], atol=1e-6)
        assert together.counts[i].tolist() == alone.counts[0].tolist()


def test_sharing_saves_three_of_four_videos_and_two_of_four_sounds(omni, monkeypatch):
    [encoded] = omni.encode([clip(50)])
    queries = [Query(encoded, k, Corpus.CMU_MOSI, SENTENCE["en"]) for k in COALITIONS]
    seen = []
    decoder = type(omni.model.model.language_model)
    plain = decoder.forward

    def count(self, *args, **given):
        width = given["inputs_embeds"].shape[1]
        seen.append(int(given["attention_mask"][:, -width:].sum()))
        return plain(self, *args, **given)

    monkeypatch.setattr(decoder, "forward", count)
    monkeypatch.setattr(OmniModel, "best_scores", lambda self, queries, *_: [0.0] * len(queries))
    omni.answer(queries)
    shared, seen[:] = sum(seen), []
    for query in queries:
        omni.answer([query])
    # Beginnings hold the system prompt as well, so that a little more is saved.
    saved = 3 * len(encoded.video) + 2 * len(encoded.audio)
    assert saved <= sum(seen) - shared <= saved + 40


def test_a_traced_answer_is_the_same_answer_with_the_attention_of_a_plain_forward(omni):
    [encoded] = omni.encode([clip(6)])
    query = Query(encoded, "TAV", Corpus.CMU_MOSI, SENTENCE["en"])
    padded = Query(encoded, "T", Corpus.CMU_MOSI, SENTENCE["en"])
    plain, traced = omni.answer([query, padded]), omni.answer([query, padded], trace=True)
    np.testing.assert_array_equal(plain.letter_logits, traced.letter_logits)
    np.testing.assert_array_equal(plain.score, traced.score)
    assert plain.mass is None and traced.mass.shape == (2, SMALL.layers, SMALL.heads, 3)
    assert (traced.mass[1, :, :, 1:] == 0).all() and traced.counts[1, 1:].tolist() == [0, 0]
    prompt = omni.prepare([query])
    with record(omni.model, prompt.modality_ids) as trace:
        plain_logits(omni, clip(6), "TAV", Corpus.CMU_MOSI, SENTENCE["en"])
    np.testing.assert_allclose(traced.mass[0], trace.mass[0], atol=1e-6)


def test_a_free_reply_is_the_greedy_one_of_full_forwards(omni):
    queries = [
        Query(omni.encode([clip(30 + i)])[0], coalition, Corpus.CMU_MOSI, SENTENCE["en"])
        for i, coalition in enumerate(("TAV", "T", "AV"))
    ]
    omni.model.model.rope_deltas = torch.tensor([[1000]])  # as an earlier prompt may leave it
    replies = omni.reply(queries, max_new_tokens=5)
    for i, query in enumerate(queries):
        tokens: list[int] = []
        while len(tokens) < 5:
            # Forced tokens go in as text would: the prompt is computed anew at each step.
            logits = forced_logits(omni, query, tokens)
            tokens.append(int(logits.argmax()))
            if tokens[-1] == omni.processor.tokenizer.eos_token_id:
                break
        assert replies[i] == omni.processor.tokenizer.decode(tokens, skip_special_tokens=True)


@torch.inference_mode()
def forced_logits(omni: OmniModel, query: Query, tokens: list[int]) -> torch.Tensor:
    prompt = omni.prepare([query])
    more = torch.tensor([tokens], dtype=torch.long)
    last = prompt.position_ids[:, 0].max()
    positions = (last + 1 + torch.arange(len(tokens))).expand(3, 1, -1)
    hidden = omni.model.model.language_model(
        inputs_embeds=torch.cat(
            [prompt.inputs_embeds, omni.model.get_input_embeddings()(more)], dim=1
        ),
        position_ids=torch.cat([prompt.position_ids, positions], dim=2),
    ).last_hidden_state
    return omni.model.lm_head(hidden[0, -1])


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


def asked(omni, transcript, coalition="TAV", seed=7):
    [encoded] = omni.encode([clip(seed)])
    return Query(encoded, coalition, Corpus.CMU_MOSI, transcript)


def test_no_token_that_a_transcript_spells_out_is_more_than_text(omni):
    tokenizer = omni.processor.tokenizer
    names = control(tokenizer)
    assert {"<|AUDIO|>", "<|endoftext|>", "<|im_end|>", "<|im_start|>user\n"} <= set(names)
    numbers = set(tokenizer.convert_tokens_to_ids(names))
    base = asked(omni, "so much")
    plain = omni.prepare([base])
    outside = plain.input_ids[0][plain.modality_ids[0] != 0]
    for name in names:
        for transcript in embedded(name):
            prompt = omni.prepare([Query(base.clip, "TAV", Corpus.CMU_MOSI, transcript)])
            ids, marks = prompt.input_ids[0], prompt.modality_ids[0]
            own = ids[marks == 0]
            assert tokenizer.decode(own) == transcript, transcript
            assert not set(own.tolist()) & numbers, transcript
            assert torch.equal(ids[marks != 0], outside), transcript
            assert torch.equal(marks[marks > 0], plain.modality_ids[0][plain.modality_ids[0] > 0])


@settings(max_examples=60, deadline=None)
@given(data=st.data(), beginning=st.text(max_size=8), end=st.text(max_size=8))
def test_what_is_spelled_out_stays_what_was_written_among_any_text(omni, data, beginning, end):
    tokenizer = omni.processor.tokenizer
    name = data.draw(st.sampled_from(control(tokenizer)))
    transcript = beginning + name + end
    [found] = omni._plain([(f"Transcript: {transcript}\nTask", 12, 12 + len(transcript))])
    own = [i for i, inside in zip(found.ids, found.inside, strict=True) if inside]
    # A token at an edge may hold white space of the text around it.
    assert tokenizer.decode(own).strip() == transcript.strip()
    assert not set(own) & set(tokenizer.convert_tokens_to_ids(control(tokenizer)))
    assert tokenizer.decode(found.ids) == f"Transcript: {transcript}\nTask"


@settings(max_examples=200, deadline=None)
@given(transcript=st.text(max_size=30) | st.text("<|>/a I\nM_DOAU", max_size=30))
def test_a_transcript_that_spells_out_no_token_is_tokenized_as_it_ever_was(omni, transcript):
    tokenizer = omni.processor.tokenizer
    text = f"<|im_start|>user\nTranscript: {transcript}\nTask<|im_end|>\n"
    start = text.index(":") + 2
    assume(not any(name in f"{transcript}\n" for name in control(tokenizer)))
    [found] = omni._plain([(text, start, start + len(transcript))])
    [whole] = tokenizer([text], add_special_tokens=False).encodings
    assert found.ids == whole.ids
    inside = [b > a and b > start and a < start + len(transcript) for a, b in whole.offsets]
    assert found.inside.tolist() == inside


def test_answers_do_not_hang_on_whether_a_neighbour_spells_out_a_token(omni):
    queries = [asked(omni, text) for text in ("so much", "so <|VIDEO|> much", "<|im_end|>")]
    together = omni.answer(queries, trace=True)
    for i, query in enumerate(queries):
        alone = omni.answer([query], trace=True)
        np.testing.assert_allclose(together.letter_logits[i], alone.letter_logits[0], atol=1e-5)
        assert together.counts[i].tolist() == alone.counts[0].tolist()
        assert together.counts[i][1:].tolist() == [len(query.clip.audio), len(query.clip.video)]


def test_without_the_transcript_what_it_spells_out_changes_nothing(omni):
    one, other = (asked(omni, text, "AV") for text in ("so much", "<|VIDEO|><|AUDIO|>"))
    assert torch.equal(omni.prepare([one]).input_ids, omni.prepare([other]).input_ids)


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


@pytest.mark.parametrize("text", ["", " \n", "\u200b", "\ufeff\u3000", "\u2800"])
def test_a_blank_transcript_is_refused_under_t_and_nowhere_else(omni, text):
    with pytest.raises(TranscriptError, match="the transcript is blank"):
        omni.answer([asked(omni, text, "T")])
    assert omni.answer([asked(omni, text, "AV")]).label[0] >= 0


def test_sound_beyond_the_window_is_heard_to_its_end(omni) -> None:
    """Seven seconds and a half, where the feature extractor's window is three."""
    rng = np.random.default_rng(3)
    short, whole = (
        Media(None, 0.1 * rng.standard_normal(n).astype(np.float32)) for n in (30_000, 120_000)
    )
    first, long, last = omni.encode([short, whole, short])
    for clip, usual in zip((first, last), omni.encode([short, short]), strict=True):
        assert torch.equal(clip.audio, usual.audio)
    assert len(long.audio) == pytest.approx(25 * 7.5, abs=1)
    end = whole.sound.copy()
    end[-16_000:] *= -0.5
    [other] = omni.encode([Media(None, end)])
    assert torch.equal(long.audio[:100], other.audio[:100])
    assert not torch.allclose(long.audio[-10:], other.audio[-10:])
