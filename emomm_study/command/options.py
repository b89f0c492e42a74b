"""The options of every command, and the examples that its ``--help`` shows."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from typing import Any

from emomm_study.run.options import add_run_options

MINI = "data/omni-mini"
TABLE1 = "TAV,TA,TV,AV"
EXAMPLES = """\
Examples:
  emomm check --profile paper
  emomm ask clip.mp4 --text "What a day" --coalition TV
  emomm score answers.csv --benchmark runs/mini/manifest.parquet --json
"""


def _listed(commands: Any, name: str, about: str, examples: str) -> argparse.ArgumentParser:
    """A command whose ``--help`` ends in examples."""
    return commands.add_parser(
        name,
        help=about,
        description=f"{about[0].upper()}{about[1:]}.",
        epilog=f"Examples:\n{textwrap.indent(textwrap.dedent(examples).strip(), '  ')}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _command(
    commands: Any, name: str, function: str, about: str, examples: str
) -> argparse.ArgumentParser:
    """A command that is carried out by ``module:function`` of this package."""
    made = _listed(commands, name, about, examples)
    made.add_argument("--json", action="store_true", help="print one JSON object, and nothing else")
    made.set_defaults(function=function)
    return made


def _steps(commands: Any, name: str, metavar: str, about: str, examples: str) -> Any:
    """A command that has others below it, to which these are added."""
    return _listed(commands, name, about, examples).add_subparsers(metavar=metavar, required=True)


def _system(made: argparse.ArgumentParser, **default: str) -> None:
    made.add_argument(
        "--system",
        metavar="NAME",
        help="a folder or hub id of weights, driver:NAME?..., gemini:MODEL?... (docs/systems.md)"
        + ("; default: %(default)s" if default else ""),
        **default,
    )
    made.add_argument("--device", help="cpu, cuda, cuda:1, mps, ...")
    made.add_argument("--dtype", help="a torch dtype's name, or auto")


def _clip(made: argparse.ArgumentParser) -> None:
    made.add_argument("file", metavar="FILE", help="the clip: an mp4 or another film or sound")
    said = made.add_mutually_exclusive_group()
    said.add_argument("--text", metavar="T", help="what is said in it")
    said.add_argument("--text-file", metavar="F", help="a UTF-8 file of what is said in it")
    made.add_argument("--audio", metavar="WAV", help="its sound, in place of FILE's own track")
    made.add_argument(
        "--coalition",
        metavar="C",
        help="which of T, A, V the system is given, as TAV or AV, or none; default: all there are",
    )
    made.add_argument(
        "--corpus",
        default="cmu_mosi",
        choices=("ch_sims_v2", "cmu_mosi"),
        help="whose scores the prompt asks for (default: %(default)s)",
    )
    made.add_argument(
        "--frames", type=int, metavar="N", help="frames sampled from the film (default: 8; mini: 4)"
    )
    _system(made, default=MINI)


def check(commands: Any) -> None:
    made = _command(
        commands, "check", "profile:check", "say what a run would be, and whether it fits",
        """
        emomm check
        emomm check --profile paper --measure
        emomm check --json | python -m json.tool
        """,
    )  # fmt: skip
    made.add_argument("--profile", default="mini", metavar="NAME", help="default: %(default)s")
    made.add_argument("--clips", type=int, metavar="N", help="of a part of N clips alone")
    made.add_argument("--measure", action="store_true", help="time two real batches, too")


def build(commands: Any) -> None:
    made = _command(
        commands, "build", "build:carry_out", "build the benchmark from your corpus folders",
        """
        emomm build --ch-sims /data/CH-SIMS-v2 --cmu-mosi /data/CMU-MOSI --out benchmark
        emomm build --cmu-mosi /data/CMU-MOSI --annotations votes.csv --out benchmark
        emomm build --ch-sims trial --all-clips --out benchmark --json
        """,
    )  # fmt: skip
    made.add_argument("--ch-sims", metavar="FOLDER", help="of CH-SIMS v2.0")
    made.add_argument("--cmu-mosi", metavar="FOLDER", help="of CMU-MOSI")
    made.add_argument(
        "--annotations", metavar="CSV", help="CMU-MOSI's unimodal labels, where not in its folder"
    )
    made.add_argument("--seed", type=int, default=0, help="of the draw and the split")
    made.add_argument(
        "--all-clips", action="store_true", help="every usable clip, not the paper's sizes"
    )
    made.add_argument("--no-media", action="store_true", help="do not look for the clips' files")
    made.add_argument("--out", required=True, metavar="FOLDER", help="what is written goes there")


def run(commands: Any) -> None:
    made = _command(
        commands, "run", "profile:run", "run a profile's notebooks, as ./run_all.sh does",
        """
        emomm run
        emomm run --profile paper --from 03
        emomm run --only 02 --json
        """,
    )  # fmt: skip
    add_run_options(made)


def ask(commands: Any) -> None:
    made = _command(
        commands, "ask", "ask:carry_out", "ask a system about one clip of yours",
        """
        emomm ask clip.mp4
        emomm ask clip.mp4 --text "What a day" --coalition TV
        emomm ask clip.mp4 --audio clip.wav --system Qwen/Qwen2.5-Omni-7B --device cuda --json
        """,
    )  # fmt: skip
    _clip(made)


def bring_in(commands: Any) -> None:
    kinds = _steps(
        commands, "import", "KIND", "bring in a benchmark of others, with its own labels",
        """
        emomm import mer-unibench /data/MER-UniBench --dataset meld --out meld
        emomm import missrag /data/MOSI --out missrag
        emomm import csv ca-mer.csv --root /data/CA-MER --labels mer6 --out ca-mer
        """,
    )  # fmt: skip
    unibench = _command(
        kinds, "mer-unibench", "bring_in:mer_unibench", "bring in a set of MER-UniBench",
        """
        emomm import mer-unibench /data/MER-UniBench --dataset meld --out meld
        emomm import mer-unibench /data/simsv2-process --dataset ch-sims-v2 --out simsv2
        """,
    )  # fmt: skip
    unibench.add_argument("folder", metavar="FOLDER", help="that holds the set's folder, or is it")
    unibench.add_argument(
        "--dataset", required=True, metavar="NAME",
        help="cmu-mosi, cmu-mosei, ch-sims, ch-sims-v2, iemocap, meld, mer2023 or mer2024",
    )  # fmt: skip
    missrag = _command(
        kinds, "missrag", "bring_in:missrag", "bring in CMU-MOSI as MissRAG lays it out",
        """
        emomm import missrag /data/MOSI --out missrag
        emomm import missrag /data/MOSI --mode all --labels sentiment5 --out mosi5
        """,
    )  # fmt: skip
    missrag.add_argument("folder", metavar="FOLDER", help="that holds labels.csv and Raw")
    missrag.add_argument(
        "--mode", default="test", choices=("train", "valid", "test", "all"),
        help="rows of this mode (default: %(default)s)",
    )  # fmt: skip
    missrag.add_argument(
        "--labels", default="sentiment3", choices=("sentiment3", "sentiment2", "sentiment5"),
        help="what is asked for (default: %(default)s, MissRAG's own)",
    )  # fmt: skip
    listed = _command(
        kinds, "csv", "bring_in:listed", "bring in any benchmark from a CSV",
        """
        emomm import csv ca-mer.csv --root /data/CA-MER --labels mer6 --out ca-mer
        emomm import csv mine.csv --root films --labels calm,tense --name mine --out mine
        """,
    )  # fmt: skip
    listed.add_argument(
        "file", metavar="CSV",
        help="name, subset, label, video; split, text, audio, label_T, label_A, label_V if there",
    )  # fmt: skip
    listed.add_argument("--root", required=True, metavar="FOLDER", help="that holds the films")
    listed.add_argument(
        "--labels", required=True, metavar="SET",
        help="sentiment2, sentiment3, sentiment5, meld7, iemocap4, mer6, or classes as calm,tense",
    )  # fmt: skip
    listed.add_argument("--name", metavar="NAME", help="of the benchmark; default: the file's")
    for kind in (unibench, missrag, listed):
        kind.add_argument(
            "--no-media", action="store_true", help="do not look for the clips' files"
        )
        kind.add_argument(
            "--out", required=True, metavar="FOLDER", help="what is written goes there"
        )


def evaluate(commands: Any) -> None:
    made = _command(
        commands, "evaluate", "evaluate:carry_out", "ask a system about the benchmark, and score it",
        """
        emomm evaluate --profile mini --out answers.csv
        emomm evaluate --profile mini --system driver:echo --clips 40 --out echo.jsonl
        emomm evaluate --benchmark benchmark/manifest.parquet --cmu-mosi /data/CMU-MOSI \\
            --system Qwen/Qwen2.5-Omni-7B --device cuda --coalitions TAV --out answers.csv
        emomm evaluate --benchmark meld/manifest.parquet --root /data/MER-UniBench/meld-process \\
            --system Qwen/Qwen2.5-Omni-7B --device cuda --coalitions TAV,AV --out answers.csv
        """,
    )  # fmt: skip
    what = made.add_mutually_exclusive_group(required=True)
    what.add_argument("--profile", metavar="NAME", help="its benchmark, corpora and settings")
    what.add_argument("--benchmark", metavar="PARQUET", help="what build or import wrote")
    made.add_argument("--root", metavar="FOLDER", help="with an imported benchmark: of its films")
    made.add_argument("--ch-sims", metavar="FOLDER", help="with --benchmark: of CH-SIMS v2.0")
    made.add_argument("--cmu-mosi", metavar="FOLDER", help="with --benchmark: of CMU-MOSI")
    _system(made)
    made.add_argument(
        "--coalitions",
        default=TABLE1,
        metavar="LIST",
        help="all of which is asked (default: %(default)s, Table 1's)",
    )
    _split(made)
    made.add_argument(
        "--clips", type=int, metavar="N", help="of a stratified part of N clips alone"
    )
    made.add_argument("--free", action="store_true", help="what it writes, parsed, not its letters")
    made.add_argument(
        "--out", required=True, metavar="FILE", help="the answers go there, as .csv or .jsonl"
    )


def score(commands: Any) -> None:
    made = _command(
        commands, "score", "score:carry_out", "score answers by Table 1, with intervals",
        """
        emomm score answers.csv --benchmark runs/mini/manifest.parquet
        emomm score answers.jsonl --benchmark benchmark/manifest.parquet --split all --out scores
        emomm score answers.csv --benchmark benchmark/manifest.parquet --json
        emomm score logs --benchmark benchmark/manifest.parquet
        """,
    )  # fmt: skip
    made.add_argument(
        "answers",
        metavar="ANSWERS",
        help="a .csv, or .jsonl with a row a line, or a folder of lmms-eval's sample logs",
    )
    made.add_argument(
        "--benchmark", required=True, metavar="PARQUET", help="what build or import wrote"
    )
    _split(made)
    made.add_argument("--out", metavar="FOLDER", help="write the tables there, as CSV")


def _split(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--split",
        default="test",
        choices=("train", "valid", "test", "all"),
        help="the clips that are asked about (default: %(default)s)",
    )


def steer(commands: Any) -> None:
    made = _command(
        commands, "steer", "steer:carry_out", "steer a model's attention on one clip of yours",
        """
        emomm steer clip.mp4 --text "What a day" --router cache/routers/0123456789abcdef
        emomm steer clip.mp4 --text "What a day" --router router --gamma 8 --top-k 8 --layer 1
        emomm steer clip.mp4 --text-file said.txt --router router --preference share --json
        """,
    )  # fmt: skip
    _clip(made)
    made.add_argument(
        "--router",
        required=True,
        metavar="NAME",
        help="a folder, or a hub id, of one that was trained for the model",
    )
    made.add_argument(
        "--layer", type=int, metavar="N", help="first layer that is steered; default: 13 of 28"
    )
    made.add_argument("--top-k", type=int, metavar="K", help="heads steered in a layer (Eq. 11)")
    for name, text in (
        ("tau", "a layer is steered where p exceeds it (Eq. 11)"),
        ("eta", "way from preference to gate (Eq. 12)"),
        ("gamma", "strength between modalities (Eq. 15)"),
        ("beta", "strength within the video (Eq. 15)"),
        ("sharpness", "power of the gate, an extension"),
    ):
        made.add_argument(f"--{name}", type=float, metavar="X", help=text)
    made.add_argument("--preference", choices=("softmax", "share"), help="of heads (Eq. 6)")


def annotate(commands: Any) -> None:
    steps = _steps(
        commands, "annotate", "STEP", "make, watch and export an annotation campaign",
        """
        emomm annotate create campaign.sqlite --cmu-mosi /data/CMU-MOSI
        emomm annotate notebook campaign.sqlite --cmu-mosi /data/CMU-MOSI --annotator A1 --out A1.ipynb
        emomm annotate progress campaign.sqlite
        """,
    )  # fmt: skip
    create = _command(
        steps, "create", "annotate:create", "make a campaign over clips of CMU-MOSI",
        """
        emomm annotate create campaign.sqlite --cmu-mosi /data/CMU-MOSI
        emomm annotate create trial.sqlite --cmu-mosi /data/CMU-MOSI --clips 40
        emomm annotate create campaign.sqlite --cmu-mosi /data/CMU-MOSI --calibration calibration.csv
        """,
    )  # fmt: skip
    create.add_argument("--clips", type=int, default=2000, help="default: %(default)s")
    create.add_argument("--seed", type=int, default=0, help="of the draw and of everyone's order")
    create.add_argument(
        "--calibration", metavar="CSV", help="sample_id, label_T, label_A, label_V of other clips"
    )
    notebook = _command(
        steps, "notebook", "annotate:notebook", "write the notebook in which one person labels",
        """
        emomm annotate notebook campaign.sqlite --cmu-mosi /data/CMU-MOSI --annotator A1 --out A1.ipynb
        """,
    )  # fmt: skip
    notebook.add_argument("--annotator", required=True, metavar="ID", help="A1 to A99")
    notebook.add_argument("--out", required=True, metavar="IPYNB", help="the notebook")
    progress = _command(
        steps, "progress", "annotate:progress", "say how far everybody is",
        """
        emomm annotate progress campaign.sqlite
        """,
    )  # fmt: skip
    export = _command(
        steps, "export", "annotate:export", "write the mean votes that build reads",
        """
        emomm annotate export campaign.sqlite --out annotations.csv
        emomm annotate export campaign.sqlite --out annotations.csv --votes votes.csv --leave-out
        """,
    )  # fmt: skip
    export.add_argument("--out", required=True, metavar="CSV", help="the mean votes")
    export.add_argument("--votes", metavar="CSV", help="single votes for release, too")
    export.add_argument("--leave-out", action="store_true", help="do without incomplete clips")
    for step in (create, notebook, progress, export):
        step.add_argument("campaign", metavar="CAMPAIGN", help="the campaign's file")
    for step in (create, notebook):
        step.add_argument("--cmu-mosi", required=True, metavar="FOLDER", help="of CMU-MOSI")


def export(commands: Any) -> None:
    kinds = _steps(
        commands, "export", "KIND", "write the benchmark in another form",
        """
        emomm export huggingface --benchmark runs/mini/manifest.parquet --out emomm \
            --note "Surrogate clips." --terms MIT
        emomm export lmms-eval --benchmark runs/mini/manifest.parquet --out tasks \
            --note "Surrogate clips."
        """,
    )  # fmt: skip
    made = _command(
        kinds, "huggingface", "export:huggingface", "write what datasets.load_dataset reads",
        """
        emomm export huggingface --benchmark runs/mini/manifest.parquet --out emomm \
            --note "Surrogate clips." --terms MIT
        """,
    )  # fmt: skip
    made.add_argument("--terms", required=True, help="under which terms labels may be passed on")
    made.add_argument(
        "--with-text", action="store_true", help="put transcripts in, which you may pass on"
    )
    tasks = _command(
        kinds, "lmms-eval", "export:lmms_eval", "write tasks that lmms-eval runs",
        """
        emomm export lmms-eval --benchmark runs/mini/manifest.parquet --out tasks \
            --note "Surrogate clips."
        """,
    )  # fmt: skip
    _split(tasks)
    for kind in (made, tasks):
        kind.add_argument(
            "--benchmark", required=True, metavar="PARQUET", help="the manifest that build wrote"
        )
        kind.add_argument(
            "--out", required=True, metavar="FOLDER", help="an empty folder, or a new one"
        )
        kind.add_argument("--note", required=True, help="what the clips are")


COMMANDS: Sequence[Any] = (
    check, build, bring_in, run, ask, evaluate, score, steer, annotate, export
)  # fmt: skip
"""What adds each command to the parser, in the order of the listing."""
