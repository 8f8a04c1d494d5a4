"""Virtual environments with a few of this environment's packages, without any download."""

import shutil
import subprocess
import sys
import venv
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def environment(folder: Path, packages: Iterable[str]) -> Path:
    """The programs of a new environment: Python with `packages` and what they require, linked file by file from here, and this
    project as pip installs it without its dependencies."""
    venv.create(folder, symlinks=True)
    programs = folder / "bin"
    purelib = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([programs / "python", "-c", purelib], text=True).strip())
    for each in with_required(packages).values():
        for file in each.files or ():
            if not {"..", "__pycache__"} & set(file.parts):
                link = site / file
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(Path(str(file.locate())))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheels = folder / "wheels"
    subprocess.run([*pip, "wheel", *_ALONE, "--no-build-isolation", "-w", wheels, _sources(folder)], check=True)
    subprocess.run([*pip, "--python", programs / "python", "install", *_ALONE, *wheels.iterdir()], check=True)
    return programs


_ALONE = ("--no-deps", "--no-index")


def with_required(packages: Iterable[str]) -> dict[str, Distribution]:
    """Installed distributions by canonical name: `packages`, what they require, what those require, and so on."""
    found: dict[str, Distribution] = {}
    waiting = list(packages)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name not in found:
            found[name] = distribution(name)
            requirements = [Requirement(line) for line in found[name].requires or ()]
            waiting += [
                each.name for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})
            ]
    return found


def _sources(folder: Path) -> Path:
    """A copy to build in, which leaves files beside what it builds; torch requires the setuptools that does it."""
    copy = folder / "sources"
    for name in ("bitgen", "shards", "pipeline", "cli"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "THIRD_PARTY.md"):
        shutil.copy(ROOT / name, copy)
    return copy
