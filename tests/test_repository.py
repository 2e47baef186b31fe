"""The repository's own files agree with each other and keep the project's rules."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCKED_EXTRAS = EXTRAS.keys() - {"all", "peers"}  # "all" names the others
LOCK_LINES = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
LOCK = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in LOCK_LINES)}
# Written as patterns, so that this file does not match itself.
UNSAFE = re.compile(
    r"pickle\.loads?\b|read_pickle\(|allow_pickle\s*=\s*True|torch\.load\(|trust_remote_code[\"']?\s*[=:]\s*True"
)


def requirements() -> list[Requirement]:
    """Every core requirement and those of the locked extras."""
    lines = PROJECT["dependencies"] + [line for name in sorted(LOCKED_EXTRAS) for line in EXTRAS[name]]
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize("requirement", requirements(), ids=lambda requirement: requirement.name)
def test_lock_pins_each_requirement_within_its_range(requirement: Requirement) -> None:
    assert requirement.specifier, "pyproject.toml gives a range for each dependency"
    version = LOCK.get(canonicalize_name(requirement.name))
    assert version is not None, "requirements.lock lacks it: run make lock"
    assert requirement.specifier.contains(version, prereleases=True)


def test_extra_all_names_every_locked_extra() -> None:
    (everything,) = (Requirement(line) for line in EXTRAS["all"])
    assert everything.name == PROJECT["name"]
    assert everything.extras == LOCKED_EXTRAS


def test_lock_lines_are_plain_pins() -> None:
    # A local version suffix such as +cpu exists on one index only, so it would not install from another.
    unpinned = [line for line in LOCK_LINES if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line)]
    assert not unpinned


def test_lock_is_sorted_without_duplicates() -> None:
    names = [line.partition("==")[0].lower() for line in LOCK_LINES]
    assert names == sorted(names)
    assert len(LOCK) == len(LOCK_LINES)


def test_conda_environment_installs_the_lock_and_the_package() -> None:
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip_lines = [entry["pip"] for entry in dependencies if isinstance(entry, dict)]
    assert pip_lines == [["-r requirements.lock", "-e ."]]
    (python,) = (Requirement(entry) for entry in dependencies if str(entry).startswith("python"))
    assert python.specifier == SpecifierSet(PROJECT["requires-python"])


def test_citation_has_the_package_version() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == PROJECT["version"]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_help_lists_every_target() -> None:
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony
    # Under `make test` the outer make's flags would reach the inner one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    shown = subprocess.run(["make"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^make ([\w-]+)", shown, re.MULTILINE)) == set(phony[1].split())


def test_no_source_unpickles_or_runs_remote_code() -> None:
    sources = [
        path
        for folder in ("pkdlib", "data", "notebooks", "tests")
        for suffix in ("*.py", "*.ipynb")
        for path in (ROOT / folder).rglob(suffix)
        if ".ipynb_checkpoints" not in path.parts
    ]
    assert sources
    assert [str(path.relative_to(ROOT)) for path in sources if UNSAFE.search(path.read_text())] == []
