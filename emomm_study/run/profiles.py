"""A profile: its parameters read, filled in, and checked before anything runs."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import yaml
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from emomm_study.corpora import ch_sims, cmu_mosi
from emomm_study.paths import ROOT, is_utf8, located, plain, writable
from emomm_study.systems.named import Named

PROFILES = ROOT / "notebooks" / "profiles"
REFERENCE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


class PipelineError(Exception):
    """Something the user has to change; its text is the whole message."""


@dataclass(frozen=True)
class Need:
    """What a profile parameter has to lead to.

    Attributes
    ----------
    what
        Words for it in messages.
    layout
        How the folder or file must look, or how to get it.
    problem
        Says what is wrong with a resolved value, or returns None.
    rendered
        Whether a profile with ``render: true`` makes it by itself.
    """

    what: str
    layout: str
    problem: Callable[[str], str | None]
    rendered: bool = True


def _corpus_problem(names: Sequence[str]) -> Callable[[str], str | None]:
    def problem(value: str) -> str | None:
        root = located(value)
        if not root.is_dir():
            return f"{value}: no such folder"
        # The loaders accept a parent folder, and a label file in a folder of its own.
        places = ("*/" * depth + name for depth in range(4) for name in names)
        found = next((file for place in places for file in root.glob(place)), None)
        if found is None:
            return f"{value}: holds none of {', '.join(names)}"
        return None if is_utf8(found) else _not_utf8(found.parent)

    return problem


def _file_problem(value: str) -> str | None:
    return None if located(value).is_file() else f"{value}: no such file"


def _not_utf8(path: Path | str) -> str:
    return (
        f"{plain(path)}: this path is not UTF-8 (bytes as \\xNN), and most readers of clips and "
        "weights cannot open it; rename the folder, or give a symbolic link to it"
    )


def _model_problem(value: str) -> str | None:
    name = Named.of(value).path
    folder = located(name)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(name, local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError):
            return f"{value}: neither a folder nor the id of a model downloaded to this machine"
    for pattern in ("config.json", "*.safetensors"):
        if not any(folder.glob(pattern)):
            return f"{value}: {folder} holds no {pattern}"
    return None


def _system_problem(value: str) -> str | None:
    named = Named.of(value)
    prefix, colon, _ = named.path.partition(":")
    if not colon:
        return _model_problem(value)
    # Imports torch, which only a profile that names other systems waits for.
    from emomm_study.systems.isolated.table import command_of
    from emomm_study.systems.table import DRIVER, PREFIXES

    if named.path.startswith(DRIVER):
        command_of(named)
    elif prefix not in PREFIXES:
        known = ", ".join(f"{name}:" for name in (DRIVER.rstrip(":"), *PREFIXES))
        return f"{value}: no such kind of system; a name begins with {known} or is a model's"
    return None


def _device_problem(value: str) -> str | None:
    if value == "cpu":
        return None
    import torch  # takes seconds, and is needed for no other check

    try:
        torch.empty(0, device=value)
    except (RuntimeError, AssertionError) as error:
        return f"{value}: {str(error).splitlines()[0]}"
    return None


def _executor_problem(value: str) -> str | None:
    if value not in ("local", "ray"):
        return f"{value}: no such executor"
    if value == "ray" and find_spec("ray") is None:
        return (
            "ray: the package is not installed; add the extra cluster (pip install -e '.[cluster]')"
        )
    return None


def _workers_problem(value: str) -> str | None:
    if value == "auto" or (value.isascii() and value.isdigit() and int(value) > 0):
        return None
    return f"{value}: no number of workers"


NEEDS = {
    "ch_sims_root": Need(
        what="the folder of CH-SIMS v2.0",
        layout=ch_sims.LAYOUT,
        problem=_corpus_problem(ch_sims.META_NAMES),
    ),
    "cmu_mosi_root": Need(
        what="the folder of CMU-MOSI",
        layout=cmu_mosi.LAYOUT,
        problem=_corpus_problem((cmu_mosi.OPINIONS, "label.csv")),
    ),
    "annotations": Need(
        what="the CSV file with CMU-MOSI's unimodal labels (Appendix A.2)",
        layout="columns video_id, clip_id, label_T, label_A, label_V; one row a clip",
        problem=_file_problem,
    ),
    "earlier_choices": Need(
        what="the choices of an earlier run, or null for none",
        layout="runs/<profile>/choices.json, which notebook 07 writes",
        problem=_file_problem,
        rendered=False,
    ),
    "backbones": Need(
        what="a list of models' weights, each a folder or the id of a downloaded model",
        layout="<model>/config.json, *.safetensors and the processor's files;\n"
        "a published model is downloaded first, for example: hf download Qwen/Qwen2.5-Omni-7B",
        problem=_model_problem,
        rendered=False,
    ),
    "systems": Need(
        what="a list of further systems (docs/systems.md)",
        layout="driver:NAME?option=value&..., gemini:MODEL_ID?budget=..., a folder or a hub id",
        problem=_system_problem,
        rendered=False,
    ),
    "device": Need(
        what="a device that torch finds on this machine",
        layout="cpu, cuda, cuda:1, mps, ...",
        problem=_device_problem,
        rendered=False,
    ),
    "executor": Need(
        what="what computes answers",
        layout="local, or ray for several GPUs or machines (docs/paper_profile.md)",
        problem=_executor_problem,
        rendered=False,
    ),
    "workers": Need(
        what="how many workers Ray starts",
        layout="auto, or a whole number from 1 on",
        problem=_workers_problem,
        rendered=False,
    ),
}


def load_profile(name: str, folder: Path = PROFILES) -> dict[str, object]:
    """Parameters of a profile as written, environment references not yet resolved."""
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml"))) or "none"
        raise PipelineError(f"There is no profile {name!r} in {folder}. These exist: {known}")
    try:
        parameters = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise PipelineError(f"{path}: not YAML: {error}") from None
    if not isinstance(parameters, dict) or parameters.get("profile") != name:
        raise PipelineError(f"{path}: expected lines `name: value`, among them `profile: {name}`")
    return parameters


def resolve(value: object) -> object:
    """Fill in ``${NAME}``, ``${NAME:-default}`` and ``~``; ``KeyError`` for an unset name.

    A list is filled in item by item. What only then is empty, as ``${NAME:-}`` may be, is None.
    """
    if isinstance(value, list):
        return [resolve(item) for item in value]
    if not isinstance(value, str):
        return value

    def lookup(match: re.Match[str]) -> str:
        name, default = match.groups()
        found = os.environ.get(name) or default
        if found is None:
            raise KeyError(name)
        return found

    filled = REFERENCE.sub(lookup, value)
    return None if value and not filled else os.path.expanduser(filled)


def preflight(parameters: Mapping[str, object]) -> dict[str, object]:
    """Resolve a profile's parameters and check that what they lead to is there.

    Of a profile with ``render: true`` the corpora are not checked: its first notebook makes them.
    One of the two corpora may be null, and CMU-MOSI's annotations with it.

    Raises
    ------
    PipelineError
        Naming every parameter at fault, the environment variable that sets it, and how the folder
        or file must look.
    """
    resolved, complaints = {}, []
    for name, value in parameters.items():
        need = NEEDS.get(name)
        try:
            resolved[name] = resolve(value)
        except KeyError as error:
            problem = f"the environment variable {error.args[0]} is not set"
        else:
            made_later = bool(need and need.rendered and parameters.get("render"))
            problem = _problem(resolved[name], need, made_later)
        if problem:
            complaints.append(_complaint(name, value, problem, need))
    complaints += [
        _complaint(name, parameters[name], problem, NEEDS.get(name))
        for name, problem in _together(resolved).items()
    ]
    if complaints:
        profile = parameters.get("profile")
        raise PipelineError(
            f"The {profile} profile cannot start; nothing was run. Parameters are in "
            f"notebooks/profiles/{profile}.yaml.\n\n" + "\n\n".join(complaints)
        )
    return resolved


def _together(resolved: Mapping[str, object]) -> dict[str, str]:
    """What is wrong with parameters that are not so by themselves, by name."""

    def absent(name: str) -> bool:
        return name in resolved and resolved[name] is None

    found = {}
    if absent("ch_sims_root") and absent("cmu_mosi_root"):
        found["ch_sims_root"] = "null, as cmu_mosi_root is; one of the two corpora may be, not both"
    if absent("annotations") and resolved.get("cmu_mosi_root"):
        found["annotations"] = "null, where cmu_mosi_root is given; the two are null together"
    if resolved.get("executor") == "ray":
        found |= _of_ray(resolved)
    clips = resolved.get("clips")
    if clips is not None and (isinstance(clips, bool) or not isinstance(clips, int) or clips < 1):
        found["clips"] = f"{clips!r}; expected a whole number from 1 on, or null for all clips"
    return found


def _of_ray(resolved: Mapping[str, object]) -> dict[str, str]:
    """What does not go together with workers on GPUs."""
    kind, _, number = str(resolved.get("device")).partition(":")
    if kind != "cuda" or not number:
        return {}
    return {"device": f"cuda:{number} is one GPU, and each of Ray's workers has its own: cuda"}


def _problem(value: object, need: Need | None, made_later: bool) -> str | None:
    """What is wrong with a resolved value; one that is made later needs room to be made."""
    if isinstance(value, list):
        found = (_problem(item, need, made_later) for item in value)
        return next((problem for problem in found if problem), None)
    if isinstance(value, str) and not is_utf8(value):
        return _not_utf8(value)
    if need is None or value is None:
        return None
    try:
        path = located(str(value).partition("?")[0])
        if made_later:
            folder = path if path.is_dir() else path.parent
            return None if writable(folder) else f"{folder}: this user cannot write there"
        if path.exists() and not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
            return f"{value}: this user may not read it"
        return need.problem(str(value))
    except (OSError, ValueError) as error:
        return f"{value}: {getattr(error, 'strerror', None) or error}"


def _complaint(name: str, value: object, problem: str, need: Need | None) -> str:
    ways = [f"export {match[1]}=..." for match in REFERENCE.finditer(str(value))]
    ways.append(f"{name}: ...   (in the profile)")
    wanted = f"Expected {need.what}. Set it by" if need else "Set it by"
    lines = [f"* {name}: {problem}.", f"  {wanted}", *(f"    {way}" for way in ways)]
    if need:
        lines += ["  It looks like this:", textwrap.indent(textwrap.dedent(need.layout), "    ")]
    return "\n".join(lines)
