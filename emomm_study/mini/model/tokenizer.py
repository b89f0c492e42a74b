"""The small tokenizers: byte-level BPE on both lexicons, with the prompt's fixed text in one piece.

So the paper's prompt is used whole, and costs a small model a few dozen tokens instead of several
hundred.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from emomm_lib.labels import COALITIONS, LETTERS
from emomm_study.corpora.scores import GRIDS, Corpus
from emomm_study.mini.surrogate.lexicon import LEXICONS
from emomm_study.systems.prompts import (
    SYSTEM_PROMPT,
    TRANSCRIPT_PREFIX,
    format_score,
    instruction,
)


def prompt_pieces(chat: Sequence[str]) -> list[str]:
    """The prompt's fixed text, cut where something varies, and a chat format's own pieces."""
    pieces = [line + "\n" for line in SYSTEM_PROMPT.split("\n")[:-1]] + [
        SYSTEM_PROMPT.split("\n")[-1]
    ]
    pieces.append(TRANSCRIPT_PREFIX)
    for corpus in Corpus:
        head, rest = instruction("none", corpus).split("(none)")
        pieces += [head + "(", ")" + rest.split("\n")[0] + "\n"]
        pieces += [line + "\n" for line in rest.split("\n")[1:-1]] + [rest.split("\n")[-1]]
    pieces += ["transcript text", "video", "audio", "none", "\nScore: ", *chat]
    pieces += sorted(
        {format_score(s) for g in GRIDS.values() for i in range(5) for s in g.scores(i)}
    )
    return list(dict.fromkeys(pieces))


def train_tokenizer(vocab_size: int, specials: Sequence[str], chat: Sequence[str]) -> Tokenizer:
    """Train on lexicons and prompt; ``specials`` come first, each of the prompt's pieces is added.

    ``vocab_size`` counts neither the pieces nor, where training finds no more, tokens not needed.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            # Han characters one by one: the lexicon's words are their combinations.
            pre_tokenizers.Split(Regex(r"[\u4e00-\u9fff]| ?[^\s\u4e00-\u9fff]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    material = [s for lexicon in LEXICONS.values() for s in lexicon.sentences()]
    material += [s[0].upper() + s[1:] for s in material]
    material += [instruction(c, k) for c in COALITIONS for k in Corpus] + list(LETTERS)
    tokenizer.train_from_iterator(
        sorted(material),
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(specials),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.add_tokens(
        [AddedToken(p, normalized=False, special=False) for p in prompt_pieces(chat)]
    )
    return tokenizer
