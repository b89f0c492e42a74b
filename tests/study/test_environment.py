"""The pins, the declared dependencies and the imports agree with one another."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import runpy
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from emomm_study.paths import ROOT
from emomm_study.run.pipeline import arguments

PACKAGES = ("emomm_lib", "emomm_study")

PYTHONS = ("3.11", "3.12", "3.13")


def platform(python: str, **more: str) -> dict[str, str]:
    """What markers see on Linux under a Python, or elsewhere by ``more``."""
    here = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"}
    version = {"python_version": python, "python_full_version": f"{python}.0"}
    return {**default_environment(), **here, **version, **more}


APPLE = {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64"}
PLATFORMS = {f"linux {python}": platform(python) for python in PYTHONS} | {
    f"apple {python}": platform(python, **APPLE) for python in PYTHONS
}
on_each_platform = pytest.mark.parametrize("name", PLATFORMS)


def lock_lines() -> list[str]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def lock(platform: dict[str, str]) -> dict[str, Requirement]:
    pins = map(Requirement, lock_lines())
    return {
        canonicalize_name(pin.name): pin
        for pin in pins
        if pin.marker is None or pin.marker.evaluate(platform)
    }


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def declared() -> list[Requirement]:
    extras = project()["optional-dependencies"]
    lines = [
        *project()["dependencies"],
        *extras["study"],
        *extras["api"],
        *extras["cluster"],
        *extras["exchange"],
        *extras["book"],
        *extras["test"],
    ]
    return [Requirement(line) for line in lines]


def version(pin: Requirement) -> str:
    (specifier,) = pin.specifier
    return specifier.version


def test_every_line_of_the_lock_is_one_exact_public_version():
    marker = r"; (sys_platform [!=]= \"darwin\"|python_version >= \"3\.1[23]\")"
    pattern = re.compile(rf"[a-z0-9-]+==[0-9][0-9a-z.]*({marker})?")
    for line in lock_lines():
        assert pattern.fullmatch(line), line
    names = [line.split("==")[0] for line in lock_lines()]
    assert names == sorted(names)


def test_environment_yml_has_the_pins_of_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip[-1] == "-e ."
    missing, extra = set(lock_lines()) - set(pip[:-1]), set(pip[:-1]) - set(lock_lines())
    assert not missing, f"environment.yml lacks {sorted(missing)}"
    assert not extra, f"environment.yml has, and requirements.lock lacks, {sorted(extra)}"
    assert "python=3.11" in environment["dependencies"]


@on_each_platform
def test_the_lock_has_every_direct_dependency_in_a_version_that_it_allows(name):
    pins = lock(PLATFORMS[name])
    for need in declared():
        if need.marker is None or need.marker.evaluate(PLATFORMS[name]):
            pin = pins.get(canonicalize_name(need.name))
            assert pin, f"requirements.lock lacks {need.name}, which pyproject.toml declares"
            assert need.specifier.contains(version(pin)), f"pyproject.toml: {need}, locked: {pin}"


@on_each_platform
def test_the_lock_is_closed_under_the_dependencies_of_its_packages(name):
    """By the metadata of the packages installed here; a package that is not is passed over."""
    environment = PLATFORMS[name]
    pins, problems = lock(environment), []
    extras = {(canonicalize_name(n.name), e) for n in declared() for e in n.extras}
    installed = {canonicalize_name(d.name): d for d in importlib.metadata.distributions()}
    for package in pins.keys() & installed.keys():
        wanted = [""] + [extra for owner, extra in extras if owner == package]
        for line in installed[package].requires or []:
            need = Requirement(line)
            settings = [{**environment, "extra": extra} for extra in wanted]
            if need.marker and not any(need.marker.evaluate(setting) for setting in settings):
                continue
            pin = pins.get(canonicalize_name(need.name))
            if pin is None or not need.specifier.contains(version(pin), prereleases=True):
                here = installed.get(canonicalize_name(need.name))
                add = f"; here: {need.name}=={here.version}" if here else ""
                problems.append(f"{package} needs {need.name}{need.specifier}, locked: {pin}{add}")
    assert not problems, "requirements.lock:\n" + "\n".join(sorted(problems))


@pytest.mark.parametrize("python", PYTHONS)
def test_every_locked_package_installs_on_any_of_its_pythons(python):
    """A distribution's Python may be an early 3.11 (Debian 12 has 3.11.2)."""
    pins, refused = lock(platform(python)), []
    for distribution in importlib.metadata.distributions():
        pin = pins.get(canonicalize_name(distribution.name))
        needs = distribution.metadata.get("Requires-Python")
        if pin and needs and pin.specifier.contains(distribution.version):
            if not SpecifierSet(needs).contains(f"{python}.0"):
                refused.append(f"{pin} needs Python {needs}")
    assert not refused


DRIVERS = ROOT / "emomm_study" / "systems" / "drivers"


def imported_modules(package: str) -> dict[str, str]:
    """Top-level names that a package imports, each with a file that does."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        if path.parent == DRIVERS:
            # Scripts of environments of their own, whose packages are in their headers.
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            else:
                continue
            found.update({name.split(".")[0]: path.relative_to(ROOT).as_posix() for name in names})
    return found


OPTIONAL = {"emomm_lib": {"torchvision"}, "emomm_study": {"google"}, "book": {"book"}}
"""What a package imports where it is installed, and does without elsewhere; the book's own scripts."""


@pytest.mark.parametrize(
    ("package", "extras"),
    [
        ("emomm_lib", []),
        ("emomm_study", ["study", "api", "cluster", "exchange"]),
        ("book", ["study", "book"]),
    ],
)
def test_every_import_of_a_package_is_a_declared_dependency(package, extras):
    optional = project()["optional-dependencies"]
    lines = [*project()["dependencies"], *(line for name in extras for line in optional[name])]
    allowed = {canonicalize_name(Requirement(line).name) for line in lines} | OPTIONAL[package]
    owners = importlib.metadata.packages_distributions()
    undeclared = [
        f"{file} imports {module}"
        for module, file in imported_modules(package).items()
        if module not in sys.stdlib_module_names
        and module not in PACKAGES
        and not {canonicalize_name(owner) for owner in owners.get(module, [module])} & allowed
    ]
    assert not undeclared, f"declare in pyproject.toml, with a reason: {undeclared}"


def test_the_small_library_needs_nine_packages_and_nothing_of_the_workshop():
    assert len(project()["dependencies"]) <= 9
    assert "emomm_study" not in imported_modules("emomm_lib")


def test_the_lock_holds_no_address():
    assert "://" not in (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in (ROOT / "environment.yml").read_text(encoding="utf-8")


def test_the_scripts_help_names_every_option_and_needs_no_environment():
    shown = subprocess.run(
        ["bash", ROOT / "run_all.sh", "--help"],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for action in arguments()._actions:
        assert max(action.option_strings, key=len) in shown


@pytest.mark.parametrize("missing", [False, True])
def test_an_environment_counts_as_usable_only_with_every_pin_or_the_package(tmp_path, missing):
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    checker = scripts / "check_pins.py"
    checker.write_text((ROOT / "scripts" / "check_pins.py").read_text(encoding="utf-8"))
    line = "pytest==0.0.1\n" if missing else f"pytest=={importlib.metadata.version('pytest')}\n"
    (tmp_path / "requirements.lock").write_text(line)
    # Without the project itself among the distributions only the pins can speak for it.
    hide = (
        "import importlib.metadata as m, runpy, sys\n"
        "def gone(name): raise m.PackageNotFoundError(name)\n"
        "m.distribution = gone\n"
        f"runpy.run_path({str(checker)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", hide], capture_output=True, text=True)
    assert done.returncode == int(missing)
    assert ("pytest==0.0.1 (here: " in done.stdout) == missing


@pytest.mark.parametrize("cuda", [False, True])
def test_a_build_of_pytorch_with_cuda_is_told_before_it_is_downloaded(cuda):
    brings_cuda = runpy.run_path(str(ROOT / "scripts" / "torch_build.py"))["brings_cuda"]
    needs = ["filelock", 'optree>=0.13; extra == "optree"']
    if cuda:
        needs.append('nvidia-cublas==13.1; platform_system == "Linux"')
    report = {"install": [{"metadata": {"requires_dist": needs}}]}
    on_linux = sys.platform == "linux"
    assert brings_cuda(report) == (cuda and on_linux)
    assert not brings_cuda({"install": []})
