"""The wheel works outside the source tree: what is tested is what is shipped."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (ROOT / "pyproject.toml").exists(), reason="only the source tree can build a wheel"
    ),
]

ABOUT_THE_SOURCE_TREE = ("test_style.py", "test_deploy.py", "test_dashboard.py", "test_prometheus.py")
UNIT = "not kafka and not prometheus and not slow and not data"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The project built as a wheel, from a copy, so that nothing is left in the source tree."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("stream", "encoders", "sinks"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)],
        check=True, capture_output=True,
    )  # fmt: skip
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_all_of_the_package_and_nothing_else(wheel):
    """Every module, the schemas and the licence; no tests, no top-level package but shoal."""
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("stream", "encoders", "sinks"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".json"} or path.name == "py.typed":
                assert f"shoal/{path.relative_to(ROOT)}" in names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"shoal"}


@pytest.mark.timeout(1200)  # it compiles every kernel anew
def test_the_tests_pass_against_the_wheel_outside_the_source_tree(wheel, tmp_path):
    """All unit tests but those about the source tree, copied elsewhere, import the installed wheel and pass."""
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(site), str(wheel)], check=True)
    tests = tmp_path / "elsewhere" / "tests"
    shutil.copytree(ROOT / "tests", tests, ignore=shutil.ignore_patterns("__pycache__"))
    environ = {**os.environ, "PYTHONPATH": str(site), "NUMBA_CACHE_DIR": str(tmp_path / "numba")}
    where = subprocess.run(
        [sys.executable, "-c", "import shoal.stream.pipeline as p; print(p.__file__)"],
        cwd=tests.parent, env=environ, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert where.stdout.startswith(str(site))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-W", "ignore", "-m", UNIT,
         *(f"--ignore={name}" for name in ABOUT_THE_SOURCE_TREE)],
        cwd=tests, env=environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert int(re.search(r"(\d+) passed", done.stdout + "0 passed").group(1)) > 900, done.stdout[-4000:]
    assert done.returncode == 0, done.stdout[-4000:]
