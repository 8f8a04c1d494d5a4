"""ONNX Runtime computes what the NumPy reference of the same packed file does, from weights that lie in that file alone."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from bitgen.deploy.export import export_graphs
from bitgen.deploy.onnx_graph import Graph
from bitgen.deploy.packed import FILE, read
from bitgen.deploy.parts import Parts
from bitgen.deploy.reference import Arithmetic, reference
from bitgen.tokens import EOT
from tests import fakes, packing

KEPT = (3, 500, 1000, EOT)
KINDS: dict[str, dict[str, Any]] = {
    "ternary": {"ffn": 18},
    "full precision": {"ternary": False},
    "concatenated": {"fusion": "concat", "text_pooling": "end"},
    "registers and two layers' features": {"registers": 3, "vision": {"feature_layers": 2}},
    "in bytes": {"in_bytes": True},
    "few tokens": {"vocabulary": len(KEPT), "kept": KEPT, "decoder_layers": 2, "text_layers": 3, "fusion_layers": 2},
}
CLOSE, CODE = 2e-5, 0.03
"""As in test_reference.py."""
D, N = fakes.WIDTH, fakes.PATCHES


def session(path: Path, **options: Any) -> onnxruntime.InferenceSession:
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 3
    for name, value in options.items():
        setattr(quiet, name, value)
    return onnxruntime.InferenceSession(path, quiet, providers=["CPUExecutionProvider"])


class Both:
    """One packed file as NumPy and as ONNX Runtime see it."""

    def __init__(self, folder: Path, fields: dict[str, Any]) -> None:
        self.folder, self.is_ternary = folder, fields.get("ternary", True)
        packing.packed(folder, packing.model(**{name: value for name, value in fields.items() if name != "in_bytes"}))
        if "in_bytes" in fields:
            packing.put_in_bytes(folder)
        self.graphs = export_graphs(folder)
        self.parts: Parts = reference(read(folder))
        self.sessions = {name: session(path) for name, path in self.graphs.items()}

    def run(self, part: str, feeds: dict[str, Any]) -> dict[str, Any]:
        session = self.sessions[part]
        return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))

    def agree(self, found: dict[str, Any], expected: dict[str, Any], close: float = CLOSE) -> None:
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            difference = np.abs(found[name] - array)
            assert difference.max(initial=0) <= (CODE if self.is_ternary else close), name
            assert np.quantile(difference, 0.75) <= (0.002 if self.is_ternary else close), name


@pytest.fixture(scope="module", params=KINDS, ids=str)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(tmp_path_factory.mktemp("export"), KINDS[request.param])


@pytest.fixture(scope="module")
def ternary(tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(tmp_path_factory.mktemp("ternary"), KINDS["ternary"])


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def mask() -> np.ndarray:
    return np.arange(7) < np.array([[7], [4]])


def test_images_agree(both: Both) -> None:
    shape = (2, 3, fakes.SIDE, fakes.SIDE)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    both.agree(both.run("image_encoder", {"pixels": pixels}), both.parts.image_encoder(pixels))


def test_texts_agree(both: Both) -> None:
    rows = np.array([[3, 0, 1, 2, 3, 3, 3], [3, 1, 1, 3, 3, 3, 3]])
    feeds = {"rows": rows, "positions": np.arange(7), "mask": mask()}
    both.agree(both.run("text_encoder", feeds), both.parts.text_encoder(**feeds))


def test_fused_states_and_matches_agree(both: Both) -> None:
    feeds = {"image": noise(2, N, D), "text": noise(2, 7, D, seed=1), "mask": mask()}
    both.agree(both.run("fusion", feeds), both.parts.fusion(**feeds))


def test_boxes_and_heat_agree(both: Both) -> None:
    shares = np.abs(noise(2, 3, 7, seed=2))
    given = noise(2, N, D), noise(2, 7, D, seed=1), shares / shares.sum(-1, keepdims=True)
    feeds = dict(zip(("fused_image", "fused_text", "shares"), given, strict=True))
    found, expected = both.run("grounding", feeds), both.parts.grounding(*given)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=CLOSE)


def test_every_step_of_two_sequences_an_image_agrees(both: Both) -> None:
    feeds = {"dual": noise(2, N, D), "reading": noise(2, D, seed=1)}
    context = both.run("decoder_start", feeds)
    both.agree(context, both.parts.decoder_start(**feeds))
    layers = range(both.parts.config.decoder_layers)
    past = {f"past_{kind}_{i}": np.zeros((4, 2, 0, D // 2), np.float32) for i in layers for kind in ("key", "value")}
    seen = np.ones((2, N + 1), bool)
    seen[1, -1] = False
    for position, rows in enumerate(([[3, 3], [3, 3]], [[0, 1], [2, 0]], [[1, 1], [2, 3]])):
        given = {"rows": np.array(rows), "position": np.array([position]), "seen": seen}
        found = both.run("decoder_step", {**given, **past, **context})
        both.agree(found, both.parts.decoder_step(**given, cache=past | context), close=1e-4)
        past = {f"past_{name}": array for name, array in found.items() if name != "logits"}
    assert past["past_key_0"].shape == (4, 2, 3, D // 2)


@pytest.mark.parametrize("name", ["text.layers.0.feed_forward.up", "text.layers.0.feed_forward.down"])
def test_a_ternary_layer_agrees_bit_for_bit_also_before_a_bias(ternary: Both, tmp_path: Path, name: str) -> None:
    packed = read(ternary.folder)
    bias, width = noise(len(packed.ternary(name))), packed.facts.in_widths[name]
    graph = Graph(packed)
    y = graph.add(graph.ternary("x", name), graph.constant(bias))
    layer = graph.model("layer", {"x": (onnx.TensorProto.FLOAT, ("B", "L", width))}, {"y": y}, "")
    (tmp_path / "layer.onnx").write_bytes(layer.SerializeToString())
    shutil.copy(ternary.folder / FILE, tmp_path)
    x = noise(4, 50, width) * np.logspace(-3, 3, 200, dtype=np.float32).reshape(4, 50, 1)
    (found,) = session(tmp_path / "layer.onnx").run(None, {"x": x})
    np.testing.assert_array_equal(found, Arithmetic(packed).ternary(x, name) + bias)


def test_codes_are_unpacked_when_the_model_is_loaded(ternary: Both, tmp_path: Path) -> None:
    path = ternary.graphs["fusion"]
    session(path, optimized_model_filepath=str(tmp_path / "optimised.onnx"))
    kinds = {node.op_type for node in onnx.load(tmp_path / "optimised.onnx", load_external_data=False).graph.node}
    assert "BitShift" in {node.op_type for node in onnx.load(path, load_external_data=False).graph.node}
    assert not kinds & {"BitShift", "BitwiseAnd", "MatMulIntegerToFloat"}
    assert "MatMulInteger" in kinds


def test_no_weight_is_stored_in_a_graph(ternary: Both) -> None:
    largest = max(path.stat().st_size for path in ternary.graphs.values())
    assert largest < 25_000
    for path in ternary.graphs.values():
        tensors = onnx.load(path, load_external_data=False).graph.initializer
        inside = [t for t in tensors if t.data_location != onnx.TensorProto.EXTERNAL and np.prod(t.dims) > 2 * D]
        assert inside == []
        assert {e.value for t in tensors for e in t.external_data if e.key == "location"} == {"model.safetensors"}


def test_graphs_are_the_same_bytes_when_written_again(ternary: Both) -> None:
    before = {name: path.read_bytes() for name, path in ternary.graphs.items()}
    again = export_graphs(ternary.folder)
    assert {name: path.read_bytes() for name, path in again.items()} == before
