"""README says what is so: every command in it is run or parsed here, every table compared, every path looked for."""

import contextlib
import importlib
import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml  # a dependency of transformers
from PIL import Image
from torch.distributed.run import get_args_parser
from transformers import Dinov2Config

from bitgen.deploy.desk import Desk
from pipeline.manifest import read_manifest
from pipeline.shapes import World, write_world

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

WORDS = ("make", "mkdir", "cp", "source", "torchrun", "python3?", r"\.venv/\S+", "bitgen-[a-z]+", "pip", "git")
"""What a command begins with where it stands within a sentence."""
DRY = {"bitgen-download", "bitgen-features", "bitgen-shards", "bitgen-train", "bitgen-shapes"}
"""Commands that can say what they would do."""
RUNS = ("coarse", "fine", "both", "demo-coarse", "demo")
"""Runs that README speaks of; here they are copies of the tiny one that its own lines make."""
TINY = shlex.split(
    "--preset demo --model.width 16 --model.compressor-width 16 --model.ffn 16 --model.heads 2 --model.memory-slots 4 "
    "--model.vision.random-width 16 --model.vision.random-heads 2 --model.vision.random-layers 1 --data.image-px 28 "
    "--optim.batch 2 --optim.epochs 2 --run.device cpu"
)


def fences(language: str, text: str = README) -> list[str]:
    """What stands in the blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def marked(name: str) -> str:
    """What stands between `<!-- name:begin -->` and `<!-- name:end -->`."""
    return README.partition(f"<!-- {name}:begin -->\n")[2].partition(f"<!-- {name}:end -->")[0]


def section(heading: str) -> str:
    return README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def lines(block: str) -> list[str]:
    """The commands of a shell block, without comments."""
    return [re.sub(r"\s+#.*", "", line) for line in block.splitlines()]


def spans() -> list[str]:
    """What stands in `code` within sentences."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL))


def commands() -> list[str]:
    """Every command in README, each once."""
    in_blocks = [line for block in fences("bash") for line in lines(block) if line]
    in_sentences = [span for span in spans() if re.match(rf"(?:{'|'.join(WORDS)})\s", span)]
    of_consoles = [line[2:] for block in fences("console") for line in block.splitlines() if line.startswith("$ ")]
    return list(dict.fromkeys([*in_blocks, *in_sentences, *of_consoles]))


def call(command: str, *more: str) -> tuple[int, str]:
    """Exit code and output of one of our commands, as its script calls it."""
    name, *arguments = shlex.split(command)
    module, _, function = PROJECT["scripts"][name].partition(":")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            code = getattr(importlib.import_module(module), function)([*arguments, *more])
        except SystemExit as ended:
            code = int(ended.code or 0)
    return code, out.getvalue()


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """The folder as current; switches and signal handlers of this process as they were afterwards."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        torch.use_deterministic_algorithms(False)
        for number, handler in handlers.items():
            signal.signal(number, handler)


@pytest.fixture(scope="module")
def own_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the lines of "Your own data" were followed to the letter, but for the size of the model."""
    folder = tmp_path_factory.mktemp("reader")
    text = section("Your own data")
    table, manifest = fences("csv", text), fences("toml", text)
    (folder / "photos.csv").write_text(*table, encoding="utf-8")
    (folder / "mine.toml").write_text(*manifest, encoding="utf-8")
    (folder / "photos").mkdir()
    for name in set(re.findall(r"^(\w+\.jpg),", table[0], re.MULTILINE)):
        Image.effect_noise((400, 300), 80).convert("RGB").save(folder / "photos" / name)
    write_world(folder / "world", World(train=2, val=1, test=2))
    with inside(folder):
        for line in lines(fences("bash", text)[0]):
            if line.startswith("bitgen-"):
                code, out = call(line, *(TINY if line.startswith("bitgen-train") else ()))
                assert code == 0, (line, out)
            else:
                subprocess.run(["bash", "-euc", line], check=True)
    return folder


@pytest.fixture(scope="module")
def workplace(own_data: Path) -> Path:
    """The same folder with all that README's other commands speak of: manifests, downloads, weights, runs."""
    (own_data / "manifests").symlink_to(ROOT / "manifests")
    for manifest in (ROOT / "manifests").glob("*.toml"):
        (own_data / "data/raw" / manifest.stem).mkdir()
    Dinov2Config(hidden_size=24, num_hidden_layers=1, num_attention_heads=2).save_pretrained(
        own_data / "data/raw/weights/dinov2-base"
    )
    shutil.copytree(own_data / "data/shards", own_data / "data/demo/shards")
    for name in RUNS:
        shutil.copytree(own_data / "runs/mine", own_data / "runs" / name)
    for name in ("photo.jpg", "rex.jpg", "other.jpg"):
        shutil.copy(next((own_data / "photos").glob("*.jpg")), own_data / name)
    with inside(own_data):
        code, out = call("bitgen-export runs/fine --format onnx")
        assert code == 0, out
    return own_data


def check_ours(command: str) -> None:
    """Runs it; one that could take long is asked what it would do."""
    code, out = call(command, *(["--dry-run"] if command.split()[0] in DRY else []))
    assert code == 0, out


def targets() -> list[str]:
    """Of the Makefile. `make` itself would also take the name of any file or folder."""
    return re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)[0].split()


def check_make(command: str) -> None:
    """The targets are there, and what they would do is checked as if README said it."""
    assert {word for word in shlex.split(command)[1:] if "=" not in word} <= set(targets())
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    asked = subprocess.run(
        ["make", "-n", *shlex.split(command)[1:]], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    for ours in re.findall(r"\.venv/bin/(bitgen-[^;\n]*)", asked.stdout):
        check_ours(ours)


def check_torchrun(command: str) -> None:
    """torchrun's own parser takes it, and what it starts is one of our commands."""
    started = get_args_parser().parse_args(shlex.split(command)[1:])
    assert started.module
    script = next(name for name, entry in PROJECT["scripts"].items() if entry == f"{started.training_script}:main")
    check_ours(shlex.join([script, *started.training_script_args]))


def check_python(command: str) -> None:
    """A module is there and takes its arguments; packages are installed already, so nothing is fetched."""
    _, _, module, *arguments = shlex.split(command)
    asked = {"venv": ["--help"], "pip": [*arguments, "--dry-run", "--no-index", "--disable-pip-version-check"]}[module]
    subprocess.run([sys.executable, "-m", module, *asked], capture_output=True, check=True)


def check_pip(command: str) -> None:
    """An extra of ours, which the environment of tests has."""
    extra = re.findall(r"^pip install 'bitgen\[(\w+)\]'$", command)[0]
    assert extra in PROJECT["optional-dependencies"]


def check_app(command: str) -> None:
    """The model is there; the page itself stays until it is stopped (`tests/cli/test_app.py` clicks on it)."""
    name, model, *more = shlex.split(command)
    assert (name, more) == ("bitgen-app", [])
    Desk.open(Path(model), None, 1)


def check_activation(command: str) -> None:
    assert command == "source .venv/bin/activate"
    assert "\nVENV := .venv\n" in (ROOT / "Makefile").read_text(encoding="utf-8")


def check_shell(command: str) -> None:
    """`own_data` ran it."""
    assert command in lines(fences("bash", section("Your own data"))[0])


CHECKS: dict[str, Callable[[str], None]] = {
    "make": check_make,
    "torchrun": check_torchrun,
    "python3": check_python,
    ".venv/bin/python": check_python,
    "source": check_activation,
    "mkdir": check_shell,
    **dict.fromkeys(PROJECT["scripts"], check_ours),
    "bitgen-app": check_app,
    "pip": check_pip,
}
"""First word of a command to what holds it."""


@pytest.mark.parametrize("command", commands())
def test_every_command_works(command: str, workplace: Path) -> None:
    with inside(workplace):
        CHECKS[command.split()[0]](command)


@pytest.mark.parametrize("block", fences("python"))
def test_the_python_example_runs(block: str, workplace: Path) -> None:
    with inside(workplace):
        exec(compile(block, "README.md", "exec"), {})


def test_commands_stand_in_blocks_that_are_read() -> None:
    languages = re.findall(r"^```(.*)$", README, re.MULTILINE)[::2]
    assert set(languages) <= {"bash", "console", "csv", "python", "sh", "toml", "text"}


@pytest.mark.parametrize("flags", re.findall(r"flags=\((.*?)\)", "".join(fences("sh"))))
def test_the_slurm_job_starts_what_there_is(flags: str, workplace: Path) -> None:
    started = re.findall(r"^(torchrun .*) &$", *fences("sh"), re.MULTILINE)
    with inside(workplace):
        check_torchrun(started[0].replace('"${flags[@]}"', flags))


def test_the_slurm_job_saves_before_its_time_is_up_and_asks_for_another_turn(tmp_path: Path) -> None:
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").write_text('PATH="$PWD:$PATH"\n')
    saves = "#!/bin/bash\ntrap 'kill $!; echo saved; exit 1' TERM\nsleep 60 >/dev/null &\necho \"$@\"\nwait\n"
    for name, script in (("torchrun", saves), ("scontrol", '#!/bin/bash\necho "$@"\n')):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    job = subprocess.Popen(
        ["bash", "-c", *fences("sh")],
        cwd=tmp_path,
        env={**os.environ, "SLURM_JOB_ID": "7"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert job.stdout is not None
    assert job.stdout.readline().endswith("-m cli.train --phase both --preset eight\n")
    job.terminate()
    assert job.communicate()[0].splitlines() == ["saved", "requeue 7"]


def test_a_slurm_job_whose_training_failed_has_failed(tmp_path: Path) -> None:
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").write_text('PATH="$PWD:$PATH"\n')
    (tmp_path / "torchrun").write_text("#!/bin/bash\nexit 3\n")
    (tmp_path / "torchrun").chmod(0o755)
    assert subprocess.run(["bash", "-c", *fences("sh")], cwd=tmp_path, check=False).returncode == 3


def test_every_dataset_is_made_by_a_manifest(own_data: Path) -> None:
    own = (own_data / "mine.toml", own_data / "world/shapes.toml")
    manifests = [read_manifest(path) for path in (*own, *(ROOT / "manifests").glob("*.toml"))]
    made = {source.dataset for manifest in manifests for source in manifest.sources}
    assert set(re.findall(r"(?<![/\w])(?:coarse|fine|eval)/[\w+-]+", README)) - made == {"eval/mine-val"}


def test_the_two_commands_are_there() -> None:
    assert {
        "make demo",
        "make test",
        "make download-coarse download-fine shards",
        "bitgen-train --phase coarse",
        "bitgen-train --phase fine --init runs/coarse",
    } <= set(commands())


def test_the_lines_for_own_data_end_in_two_trained_phases(own_data: Path) -> None:
    ends = [
        own_data / "runs" / name / "checkpoints/step-00000002/model.safetensors" for name in ("mine-coarse", "mine")
    ]
    assert [end.is_file() for end in ends] == [True, True]


@pytest.mark.parametrize("command", [line[2:] for line in marked("parameters").splitlines() if line[:2] == "$ "])
def test_the_parameter_table_is_what_the_command_prints(command: str) -> None:
    code, out = call(command)
    assert code == 0
    table, _, _ = out.partition("\n\n")
    assert f"$ {command}\n{table}\n" in marked("parameters")


@pytest.mark.parametrize("command", [line[2:] for line in marked("downloads").splitlines() if line[:2] == "$ "])
def test_the_sizes_of_downloads_are_what_the_command_prints(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with inside(ROOT):
        call(command, "--data", str(tmp_path))
    assert f"$ {command}\n{capsys.readouterr().err.splitlines()[0]}\n" in marked("downloads")


def test_the_size_of_stored_features_is_what_the_command_prints(workplace: Path) -> None:
    with inside(workplace):
        code, out = call("bitgen-features facebook/dinov2-base --datasets coarse/coco-train --dry-run")
    assert code == 0
    assert re.findall(r"It takes (\d+ KB an image)", README) == re.findall(r"\d+ KB an image", out)


def test_every_flag_exists() -> None:
    helps = "".join(call(f"{name} --help")[1] for name in PROJECT["scripts"])
    named = {span.split()[0] for span in spans() if span.startswith("--")}
    assert {flag for flag in named if not re.search(rf"{re.escape(flag)}\b", helps)} == set()


def test_every_path_of_the_repository_exists() -> None:
    made = ("data/", "runs/", "checkpoints/", "photos/", "coarse/", "fine/", "eval/")  # the last three are datasets
    paths = {span for span in spans() if re.fullmatch(r"[\w.-]+/[\w./-]*|[A-Z_]+(\.\w+)?", span)}
    assert {path for path in paths if not path.startswith(made) and not (ROOT / path).exists()} == set()


def test_the_embedded_photographs_are_counted_right() -> None:
    train, val = (len(list((ROOT / "manifests/sample" / name).glob("*.jpg"))) for name in ("train2017", "val2017"))
    assert f"{train} to train on and {val} to\nevaluate on" in README
    assert f"sees {train} photographs" in README


def test_the_ids_that_ship_are_counted_right() -> None:
    lists = [path.read_text(encoding="utf-8") for path in (ROOT / "manifests/holdout").glob("*.txt")]
    ids = {line for each in lists for line in each.splitlines() if line.startswith("coco:")}
    assert f"{len(ids):,} COCO ids ship in `manifests/holdout/`" in README


def test_make_help_lists_every_target() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [name for name in targets() if not re.search(rf"^{name} ", listed, re.MULTILINE)] == []


@pytest.fixture(scope="module")
def citation() -> dict:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def test_the_citation_is_of_this_version_and_licence(citation: dict) -> None:
    found = (citation["cff-version"], citation["version"], citation["license"], citation["authors"])
    assert found == ("1.2.0", PROJECT["version"], PROJECT["license"], [{"name": "The BitGen authors"}])


def test_the_citation_names_the_works_that_the_model_rests_on(citation: dict) -> None:
    works = ("2206.07643", "2304.07193", "2106.09685", "2402.17764", "2403.11901", "2104.12763", "1405.0312")
    assert [work["url"] for work in citation["references"]] == [f"https://arxiv.org/abs/{work}" for work in works]


def test_every_reference_is_whole(citation: dict) -> None:
    assert all(work.keys() >= {"type", "title", "authors", "year"} for work in citation["references"])
