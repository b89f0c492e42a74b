"""Surrogate transcripts: short English and Mandarin remarks whose wording carries the class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Lexicon:
    """Words of one language. ``cues`` has five entries, one a class N..P."""

    topics: tuple[str, ...]
    cues: tuple[tuple[str, ...], ...]
    intensifiers: tuple[str, ...]
    hedges: tuple[str, ...]
    templates: tuple[str, ...]

    def sentence(self, shown: int, emphatic: bool, rng: np.random.Generator) -> str:
        """A remark of class 0..4; emphatic ones carry an intensifier, plain ones may hedge."""
        degree = rng.choice(self.intensifiers if emphatic else self.hedges)
        text = str(rng.choice(self.templates)).format(
            topic=rng.choice(self.topics), cue=degree + rng.choice(self.cues[shown])
        )
        return text[0].upper() + text[1:]

    def sentences(self) -> list[str]:
        """Every template, degree and cue with every topic once: material for a tokenizer."""
        degrees = self.intensifiers + self.hedges
        words = [d + c for d in degrees for cues in self.cues for c in cues]
        return [
            self.templates[i % len(self.templates)].format(
                topic=self.topics[i % len(self.topics)], cue=cue
            )
            for i, cue in enumerate(words * 3)
        ]


ENGLISH = Lexicon(
    topics=(
        "the film", "the story", "the ending", "the music", "the acting", "this phone",
        "the dinner", "that meeting", "the trip", "the game", "her answer", "his idea",
        "the service", "this book", "the lecture", "the weather", "our flat", "the party",
        "the interview", "the weekend", "that plan", "the coffee", "the bus ride", "my new job",
    ),
    cues=(
        ("terrible", "awful", "horrible", "hateful", "disgusting", "a disaster", "unbearable"),
        ("dull", "disappointing", "weak", "boring", "tiresome", "a letdown", "clumsy"),
        ("ordinary", "typical", "average", "unremarkable", "nothing special", "unchanged", "standard"),
        ("nice", "pleasant", "decent", "enjoyable", "likeable", "a comfort", "charming"),
        ("wonderful", "fantastic", "amazing", "brilliant", "superb", "a triumph", "perfect"),
    ),
    intensifiers=("really ", "truly ", "absolutely ", "so very ", "completely "),
    hedges=("", "", "sort of ", "I guess ", "more or less "),
    templates=(
        "{topic} was {cue}", "I found {topic} {cue}", "well, {topic} is {cue}",
        "they say {topic} was {cue}", "to me {topic} was {cue}", "you know, {topic} is {cue}",
    ),
)  # fmt: skip

MANDARIN = Lexicon(
    topics=(
        "电影", "故事", "结局", "音乐", "表演", "手机", "晚饭", "会议", "旅行", "比赛", "回答", "主意",
        "服务", "这本书", "讲座", "天气", "房子", "聚会", "面试", "周末", "计划", "咖啡", "路上", "工作",
    ),
    cues=(
        ("糟透了", "恶心", "可怕", "可恨", "一塌糊涂", "让人崩溃", "讨厌"),
        ("无聊", "失望", "差劲", "没意思", "累人", "不太行", "笨拙"),
        ("一般", "普通", "平常", "没变化", "照旧", "中等", "按计划"),
        ("不错", "舒服", "挺好", "有趣", "可爱", "顺心", "愉快"),
        ("太棒了", "精彩", "完美", "了不起", "绝妙", "让人激动", "美极了"),
    ),
    intensifiers=("真的", "实在", "简直", "确实", "完全"),
    hedges=("", "", "好像", "大概", "算是"),
    templates=("{topic}{cue}", "我觉得{topic}{cue}", "这次{topic}{cue}", "听说{topic}{cue}",
               "那个{topic}{cue}", "今天{topic}{cue}"),
)  # fmt: skip

LEXICONS = {"en": ENGLISH, "zh": MANDARIN}
