"""The road of one image: a few URLs on 127.0.0.1 end in a changed weight, through the commands that everyone uses."""

from pathlib import Path

from safetensors.numpy import load_file

from cli.build_shards import main as build_shards
from cli.download import main as download
from cli.train import main as train
from tests.servers import Page, Server
from tests.worlds import coco

TINY = (
    "--phase coarse --preset demo --mixture coarse/world-train --model.width 16 --model.compressor-width 16 --model.ffn 16 "
    "--model.heads 2 --model.memory-slots 4 --model.vision.random-width 16 --model.vision.random-heads 2 "
    "--model.vision.random-layers 1 --data.image-px 28 --optim.batch 2 --optim.epochs 2 --optim.lora-warmup-epochs 0 "
    "--run.checkpoint-every 1 --run.device cpu"
)


def serve_world(folder: Path, server: Server) -> Path:
    """A manifest whose files are URLs of `server`: COCO's captions and three photographs of a tiny world."""
    source = coco(folder / "origin")
    files = sorted(path for path in (folder / "origin").rglob("*") if path.is_file())
    lines = ['name = "world"', 'licence = "none"', "[[source]]", 'name = "world"', 'phase = "coarse"', 'role = "train"']
    lines += ['split = "train"', 'reader = "coco"', f"annotations = {list(source.annotations)}"]
    lines += [f"images = {list(source.images)}", "refusal_ceiling = 1.0"]
    for path in files:
        name = path.relative_to(folder / "origin").as_posix()
        server.pages[f"/{name}"] = Page(path.read_bytes())
        lines += [
            "[[file]]",
            f'path = "{name}"',
            f'urls = ["{server.url("/" + name)}"]',
            f"bytes = {path.stat().st_size}",
        ]
    manifest = folder / "world.toml"
    manifest.write_text("\n".join(lines), encoding="utf-8")
    return manifest


def test_a_url_becomes_a_changed_weight(tmp_path: Path, server: Server) -> None:
    manifest, data = serve_world(tmp_path, server), tmp_path / "data"
    assert download([str(manifest), "--data", str(data)]) == 0
    assert build_shards([str(manifest), "--data", str(data), "--workers", "1"]) == 0
    assert train([*TINY.split(), "--data.root", str(data), "--run.runs", str(tmp_path / "runs")]) == 0
    first, last = (
        load_file(tmp_path / "runs/coarse/checkpoints" / step / "model.safetensors")
        for step in ("step-00000002", "step-00000004")
    )
    assert {name for name in first if (first[name] != last[name]).any()} >= {
        "vision.backbone.encoder.layer.0.attention.q_proj.lora_B.default.weight",
        "text.token.weight",
        "decoder.layers.0.attention.query.weight",
    }
