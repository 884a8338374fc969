"""The pure half has no clock, randomness, environment, logging or I/O; arrows point inward."""

import ast
from pathlib import Path

import pytest

import shoal.encoders
import shoal.sinks
import shoal.stream

STREAM, ENCODERS, SINKS = (Path(p.__path__[0]) for p in (shoal.stream, shoal.encoders, shoal.sinks))

FORBIDDEN_MODULES = {
    "time", "os", "io", "sys", "random", "secrets", "uuid", "logging", "pathlib", "socket", "subprocess", "threading",
    "multiprocessing", "asyncio", "tempfile", "shutil", "gzip", "pickle", "marshal", "shelve", "kafka", "click",
    "confluent_kafka", "rich", "prometheus_client", "starlette", "uvicorn",
}  # fmt: skip
FORBIDDEN_CALLS = {"open", "print", "input", "exec", "eval", "hash", "id", "__import__", "breakpoint"}
FORBIDDEN_ATTRIBUTES = {
    "now", "utcnow", "today", "set_num_threads", "environ", "getenv", "save", "load", "fromfile", "tofile", "memmap",
}  # fmt: skip
CONFIG = "config.py"  # reads file and environment once, at start; the pipeline only sees the frozen result
SHELL_ENTRY = {"one_thread"}  # called by the shell, before anything is computed


def _pure_files() -> list[Path]:
    """Everything the pipeline imports, found by following the imports from pipeline.py."""
    found: dict[str, Path] = {}
    todo = [STREAM / "pipeline.py", STREAM / "segmenter.py", *sorted(ENCODERS.glob("*.py"))]
    while todo:
        path = todo.pop()
        if str(path) in found or path.name == CONFIG:
            continue
        found[str(path)] = path
        todo += [target for target in _internal(path) if target.exists()]
    return sorted(found.values())


def _internal(path: Path) -> list[Path]:
    """The files that a file's relative imports name, except those only for type checkers."""
    targets = []
    for node in _runtime(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parent
            for _ in range(node.level - 1):
                base = base.parent
            base = base.joinpath(*(node.module or "").split("."))
            for target in (base, *(base / alias.name for alias in node.names)):  # a name may be a module
                targets += [target.with_suffix(".py"), target / "__init__.py"]
    return targets


def _runtime(tree: ast.AST) -> list[ast.AST]:
    """All nodes except what stands under `if TYPE_CHECKING`, and what the shell calls before it starts."""
    nodes: list[ast.AST] = []
    todo = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.FunctionDef) and node.name in SHELL_ENTRY:
            continue
        nodes.append(node)
        todo += list(ast.iter_child_nodes(node))
    return nodes


def _offences(path: Path) -> list[str]:
    found = []
    for node in _runtime(ast.parse(path.read_text())):
        line = f"{path.name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            found += [
                f"{line} import {a.name}" for a in node.names if a.name.split(".")[0] in FORBIDDEN_MODULES
            ]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            if (node.module or "").split(".")[0] in FORBIDDEN_MODULES:
                found.append(f"{line} from {node.module}")
        elif (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS
        ):
            found.append(f"{line} {node.func.id}()")
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "builder.load":
            continue  # an instruction of the compiler, not a file
        elif isinstance(node, ast.Attribute) and node.attr in FORBIDDEN_ATTRIBUTES:
            found.append(f"{line} .{node.attr}")
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) in {"np.random", "numpy.random"}:
            if node.attr not in {"Generator", "PCG64", "default_rng", "SeedSequence", "Philox"}:
                found.append(f"{line} np.random.{node.attr}")
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("default_rng") and not node.args:
            found.append(f"{line} default_rng() without a seed")
    return found


@pytest.mark.parametrize("path", _pure_files(), ids=lambda p: p.name)
def test_the_pure_half_does_no_effects(path):
    """No clock, global randomness, environment, logging or I/O in what the pipeline is made of."""
    assert _offences(path) == []


def test_the_check_itself_can_fail(tmp_path):
    """A file that looks at the clock is caught."""
    bad = tmp_path / "bad.py"
    bad.write_text(
        "import time\nimport numpy as np\nnp.random.rand()\nprint(hash('x'))\nnp.random.default_rng()\n"
    )
    assert len(_offences(bad)) == 5


def test_no_way_to_import_a_module_is_missed(tmp_path):
    """From a package, from a module, and a module by its name from a namespace without __init__."""
    for name in ("here", "there"):
        (tmp_path / "pkg" / name).mkdir(parents=True)
    names = ("here/a.py", "here/b.py", "there/c.py", "there/d.py")
    for name in names:
        (tmp_path / "pkg" / name).touch()
    (tmp_path / "pkg" / "here" / "me.py").write_text(
        "from . import a\nfrom .b import f\nfrom ..there import c\nfrom ..there.d import g\n"
    )
    found = [path for path in _internal(tmp_path / "pkg" / "here" / "me.py") if path.exists()]
    assert sorted(found) == [tmp_path / "pkg" / name for name in names]


def test_the_pure_half_is_what_it_should_be():
    """Following the imports really reaches the parts."""
    names = {path.name for path in _pure_files()}
    assert {
        "wire.py",
        "windows.py",
        "features.py",
        "segmenter.py",
        "membership.py",
        "changes.py",
        "publication.py",
    } <= names


SHELL_FOLDERS = {
    "commands",
    "evaluation",
    "watching",
    "benchmarks",
    "kafka",
    "librdkafka",
    "auditing",
    "simulation",
    "sinks",
}
SHELL_FILES = {
    "engine", "replica", "epochs", "sources", "disk", "snapshots", "forked", "packing", "migrations", "wiring", "cli",
}  # fmt: skip


@pytest.mark.parametrize("path", _pure_files(), ids=lambda p: p.name)
def test_arrows_point_inward(path):
    """The pure half imports nothing of the shell."""
    for target in _internal(path):
        if target.exists():
            assert target.parent.name not in SHELL_FOLDERS
            assert target.stem not in SHELL_FILES


@pytest.mark.parametrize("path", sorted([*ENCODERS.glob("*.py"), *SINKS.glob("*.py")]), ids=lambda p: p.name)
def test_plug_ins_know_only_facts_and_ports(path):
    """Encoders and sinks import the trunk's facts, ports, configuration, the compiler; and neighbours."""
    allowed = {"events", "ports", "config", "manifest", "digest", "disk", "compiling"}
    imported = {p for p in _internal(path) if p.exists() and STREAM in p.parents}
    allowed_folders = {STREAM / "kafka"} if path.name == "kafka.py" else set()
    assert {p.stem for p in imported if p.parent not in allowed_folders} <= allowed


def test_no_two_modules_import_each_other():
    """Imports form no circle, not even for type checkers or late ones: each part can be read without the next."""
    files = {
        path: _all_internal(path) for folder in (STREAM, ENCODERS, SINKS) for path in folder.rglob("*.py")
    }
    done: set[Path] = set()

    def visit(path: Path, above: tuple[Path, ...]) -> None:
        assert path not in above, " -> ".join(p.name for p in (*above[above.index(path) :], path))
        if path not in done:
            for target in files[path]:
                visit(target, (*above, path))
            done.add(path)

    for path in sorted(files):
        visit(path, ())


def _all_internal(path: Path) -> list[Path]:
    """Every file of the package that a file names in a relative import, wherever in it the import stands."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1]
            for name in [node.module] if node.module else [alias.name for alias in node.names]:
                target = base.joinpath(*name.split("."))
                found += [t for t in (target.with_suffix(".py"), target / "__init__.py") if t.exists()]
    return sorted(found)
