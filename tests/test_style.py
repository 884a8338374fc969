"""How the code reads: formatted, linted, strictly typed, small; and nothing of the workshop left in it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

FOLDERS = ("stream", "encoders", "sinks")


def _run(*command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, **environ},
    )  # fmt: skip


def _checkout() -> None:
    if not (ROOT / "pyproject.toml").exists():
        pytest.skip("only the source tree has a style; this is an installed copy")


def test_ruff_finds_nothing():
    """Lint rules and import order hold everywhere."""
    _checkout()
    done = _run("ruff", "check", "--no-cache", ".")
    assert done.returncode == 0, done.stdout


def test_everything_is_formatted():
    """One formatting, by the tool."""
    _checkout()
    done = _run("ruff", "format", "--check", "--no-cache", ".")
    assert done.returncode == 0, done.stdout


def test_types_are_strict(tmp_path):
    """mypy --strict over all three packages, as they are installed: under the name shoal."""
    _checkout()
    package = tmp_path / "shoal"
    package.mkdir()
    for folder in FOLDERS:
        (package / folder).symlink_to(ROOT / folder)
    names = [part for folder in FOLDERS for part in ("-p", f"shoal.{folder}")]
    done = _run("mypy", "--config-file", "pyproject.toml", *names, MYPYPATH=str(tmp_path))
    assert done.returncode == 0, done.stdout


def _tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / line for line in done.stdout.splitlines() if (ROOT / line).is_file()]


def test_no_module_is_a_wall():
    """Half of all modules stay under 200 lines; none passes 400."""
    sizes = sorted(
        len(path.read_text().splitlines())
        for f in FOLDERS
        for path in (ROOT / f).rglob("*.py")
        if path.stat().st_size
    )
    if not sizes:
        pytest.skip("only the source tree has modules here")
    assert sizes[len(sizes) // 2] < 200
    assert sizes[-1] <= 400


def test_no_pickle_anywhere():
    """No serialiser that runs code: not in the package, not in the tests."""
    words = re.compile(
        r"^\s*(import|from) (pickle|cPickle|dill|cloudpickle|joblib|shelve|marshal)\b|torch\.(save|load)\(",
        re.M,
    )
    for path in _tracked():
        if path.suffix == ".py":
            assert not words.search(path.read_text()), path


def test_no_machine_is_named():
    """No home folder, no working folder, no registry's host in any file that is published."""
    words = re.compile(
        r"/root/|/home/[a-z]|\.pyenv|files\.pythonhosted|repo\.maven\.apache|deb\.debian|pypi\.org|download\.pytorch"
    )
    for path in _tracked():
        if path.name != Path(__file__).name and path.suffix not in {".gz", ".png"}:
            found = words.search(path.read_text("utf-8", "replace"))
            assert not found, f"{path}: {found}"
