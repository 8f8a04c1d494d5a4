"""The house keeps its shape: imports point down, files stay short, every package earns its place, nothing unpickles."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
LAYERS = ("bitgen", "shards", "pipeline", "cli")
"""From the bottom up; a layer imports itself and those before it."""
MAX_LINES = 300
ROAD = (
    "manifests/sample.toml",
    "pipeline/annotations/coco.py",
    "pipeline/fetch.py",
    "pipeline/build.py",
    "shards/format.py",
    "shards/stream.py",
    "bitgen/batch.py",
    "bitgen/model/bitgen.py",
    "bitgen/objectives/total.py",
    "bitgen/training/loop.py",
)
DISTRIBUTIONS = {"pillow": "PIL"}
"""Packages whose import name is not their own."""


def sources() -> list[Path]:
    return sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def reachable(entry: Path) -> set[Path]:
    """Our files that `entry` imports, directly or not."""
    seen, waiting = set(), [entry]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in imports(path):
            parts = name.split(".")
            if parts[0] in LAYERS:
                candidates = [ROOT.joinpath(*parts[:length]) for length in range(1, len(parts) + 1)]
                waiting += [p for c in candidates for p in (c.with_suffix(".py"), c / "__init__.py") if p.is_file()]
    return seen


def test_imports_point_down() -> None:
    upward = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources()
        for name in imports(path)
        if name.split(".")[0] in LAYERS
        and LAYERS.index(name.split(".")[0]) > LAYERS.index(path.relative_to(ROOT).parts[0])
    ]
    assert upward == []


def test_commands_are_imported_by_nobody() -> None:
    assert [p for p in sources() if p.parent.name != "cli" for name in imports(p) if name.split(".")[0] == "cli"] == []


def test_no_file_is_longer_than_300_lines() -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in sources()}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}


def test_every_package_that_is_installed_is_imported_by_a_command() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {re.match(r"[\w-]+", line).group().lower() for line in project["dependencies"]}  # type: ignore[union-attr] (each has a name)
    entries = [ROOT / "cli" / (target.split(":")[0].split(".")[1] + ".py") for target in project["scripts"].values()]
    used = {name.split(".")[0] for entry in entries for path in reachable(entry) for name in imports(path)}
    assert {name for name in named if DISTRIBUTIONS.get(name, name) not in used} == set()


def test_every_folder_of_code_is_a_package_that_setuptools_installs() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in sources()}
    assert folders == set(setuptools["packages"])


def test_the_road_of_one_image_is_there() -> None:
    assert [name for name in ROAD if not (ROOT / name).is_file()] == []


def test_nothing_unpickles() -> None:
    forbidden = re.compile(r"\bpickle\b|torch\.load\(|torch\.save\(|allow_pickle=True|trust_remote_code=True")
    found = [str(p.relative_to(ROOT)) for p in sources() if forbidden.search(p.read_text(encoding="utf-8"))]
    assert found == []


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, bitgen, bitgen.record; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
