"""Virtual environments for what BitGen is compared with and does not depend on: each peer in one of its own.

Each is laid over BitGen's environment: what a peer does not ask for in another version, PyTorch above all, is ours.
"""

import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from tests.benchmarks.harness import BenchError, versions

FIXED = ("torch", "torchvision", "pillow", "simplejpeg")
"""What decides how fast an image becomes a tensor: the same for all."""


def prepare(folder: Path, requirements: Sequence[str]) -> Path:
    """The Python of an environment that has `requirements`: BitGen's own where it has them, else one made in `folder` unless it
    is there already.

    Raises `BenchError` where they cannot be installed.
    """
    if _is_ours(requirements):
        return Path(sys.executable)
    python, stamp = folder / "bin/python", folder / "made-of.txt"
    fixed = "".join(f"{name}=={version}\n" for name, version in versions(FIXED).items())
    ours = list(dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib")))
    made_of = "\n".join([sys.version, *ours, fixed, *requirements])
    if stamp.is_file() and stamp.read_text() == made_of:
        return python
    print(f"installing {', '.join(requirements)}", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    _call([sys.executable, "-m", "venv", str(folder)])
    # A .pth file adds to the end of the path: the environment's own packages come first. It is there before pip looks,
    # so that pip finds PyTorch and does not fetch gigabytes of it once more.
    inside = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    )
    (Path(inside.stdout.strip()) / "bitgen.pth").write_text("\n".join(ours) + "\n")
    (folder / "fixed.txt").write_text(fixed)
    _call([str(python), "-m", "pip", "install", "--quiet", "--constraint", str(folder / "fixed.txt"), *requirements])
    stamp.write_text(made_of)
    return python


def _is_ours(requirements: Sequence[str]) -> bool:
    """Whether this environment has each of them, name==version."""
    try:
        return all(
            metadata.version(name) == version for name, _, version in (each.partition("==") for each in requirements)
        )
    except metadata.PackageNotFoundError:
        return False


def _call(command: Sequence[str]) -> None:
    found = subprocess.run(command, check=False, capture_output=True, text=True)
    if found.returncode != 0:
        raise BenchError(
            f"expected {' '.join(command)} to end with 0, found {found.returncode}: {found.stderr[-2000:]}"
        )
