"""Packed files of earlier versions are read as they were meant, and run."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from bitgen.deploy import unpack
from bitgen.deploy.export import export_graphs
from bitgen.deploy.packed import FILE, INPUT_SCALE, Packed, read
from bitgen.deploy.reference import reference
from bitgen.deploy.runtime import sessions
from bitgen.tokens import EOT
from tests import fakes, packing

TOKENS = (3, 500, 1000, EOT)


def test_a_file_of_version_1_is_read(tmp_path: Path) -> None:
    """Byte by byte, so that no later change of ours can make it: a ternary layer of 5 inputs, a vector, an embedding."""
    config = {"width": 16, "text_layers": 3}
    fields = {"config": config, "vision": {}, "image_px": 224, "max_tokens": 64, "in_widths": {"a.up": 5}}
    fields |= {"weight_bits": 8, "tower": "fp16", "tokenizer_sha256": "t", "holdout_sha256": "h"}
    fields |= {"run": "r", "phase": "fine", "step": 7, "format_version": 1}
    header = {
        "__metadata__": {"bitgen": json.dumps(fields)},
        "a.up.scale": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
        "e.scales": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        "e.kept": {"dtype": "I32", "shape": [1], "data_offsets": [12, 16]},
        "b": {"dtype": "F16", "shape": [1], "data_offsets": [16, 18]},
        "a.up.codes": {"dtype": "U8", "shape": [1, 2], "data_offsets": [18, 20]},
        "e.rows": {"dtype": "I8", "shape": [2, 2], "data_offsets": [20, 24]},
    }
    head = json.dumps(header).encode()
    tail = np.array([0.5, 0.1, 2], np.float32).tobytes() + np.int32(70000).tobytes() + np.float16(2).tobytes()
    tail += bytes([0b10_01_00_10, 0b01_01_01_00]) + np.array([127, -3, 0, 64], np.int8).tobytes()
    (tmp_path / FILE).write_bytes(len(head).to_bytes(8, "little") + head + tail)
    packed = read(tmp_path)
    assert packed.floats("a.up.weight").tolist() == [[0.5, -0.5, 0.0, 0.5, -0.5]]
    assert packed.floats("b").tolist() == [2.0]
    np.testing.assert_allclose(packed.floats("e.weight"), [[12.7, -0.3], [0, 128]], rtol=1e-6)
    assert packed.tensors["e.kept"].tolist() == [70000]
    assert (packed.facts.config.text_layers, packed.facts.step) == (3, 7)


def as_version_1(packed: Packed, fp16: Packed, folder: Path) -> Packed:
    """The same model as version 1 had it: scales in fp32, ids in 32 bits; what multiplies no bytes, as in the file in fp16."""
    maps = {name.removesuffix(INPUT_SCALE) for name in packed.tensors if name.endswith(INPUT_SCALE)}
    of_maps = {name: each for name, each in packed.tensors.items() if name.rpartition(".")[0] in maps}
    rest = {name: each for name, each in fp16.tensors.items() if name.removesuffix(".weight") not in maps}
    tensors = {**of_maps, **rest}
    for name in tensors:
        if name.endswith(".scales"):
            tensors[name] = tensors[name].astype(np.float32)
        if name.endswith(".kept"):
            tensors[name] = tensors[name].astype(np.int32)
    fields = {"format_version": 1, **dataclasses.asdict(packed.facts)}
    folder.mkdir()
    save_file({name: np.array(each) for name, each in tensors.items()}, folder / FILE, {"bitgen": json.dumps(fields)})
    return read(folder)


@torch.no_grad()
@pytest.mark.parametrize("tower", ["fp16", "int8"])
def test_a_model_of_version_1_answers(tmp_path: Path, tower: str) -> None:
    packing.packed(tmp_path / "new", packing.model(), tokens=TOKENS)
    fp16 = read(tmp_path / "new")
    packing.packed(tmp_path / "fp16", packing.model(), tokens=TOKENS)
    new = fp16 if tower == "fp16" else packing.put_in_bytes(tmp_path / "fp16")
    old = as_version_1(new, fp16, tmp_path / "old")
    assert {each.dtype for name, each in old.places.items() if name.endswith(".scales")} == {"F32"}
    assert (old.facts.tower, old.places["text.token.kept"].dtype) == (tower, "I32")
    assert "compressor.layers.0.weight" in old.tensors
    export_graphs(tmp_path / "old")
    images = np.random.default_rng(1).integers(0, 256, (2, 3, fakes.SIDE, fakes.SIDE), dtype=np.uint8)
    expected = reference(new).image_encoder(images)["embedding"]
    answers = [
        reference(old).image_encoder(images)["embedding"],
        sessions(tmp_path / "old", 1)("image_encoder", {"pixels": images})["embedding"],
        unpack.load(tmp_path / "old")[0].encode_image(torch.from_numpy(images)).embedding.numpy(),
    ]
    for found in answers:
        np.testing.assert_allclose(found, expected, rtol=0, atol=0.02)
