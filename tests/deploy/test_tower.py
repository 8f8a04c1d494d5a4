"""A vision tower in bytes: the same for PyTorch, NumPy and ONNX Runtime, and near the one in fp16."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from bitgen.deploy import unpack
from bitgen.deploy.export import export_graphs
from bitgen.deploy.onnx_graph import Graph
from bitgen.deploy.pack import write
from bitgen.deploy.packed import FILE, POSITIONS, Packed, PackedError, read
from bitgen.deploy.reference import Arithmetic, reference
from bitgen.deploy.runtime import sessions
from bitgen.deploy.tower import LAYERS, calibrate, in_bytes
from bitgen.deploy.vision import TOWER
from tests import fakes, packing

FIRST = f"{LAYERS}0.mlp.fc1"
PATCHES = f"{TOWER}.embeddings.patch_embeddings.projection.weight"
MAPS = 12
"""Linear maps in the two layers of a fake tower."""


def _images(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, fakes.SIDE, fakes.SIDE), dtype=np.uint8)


@pytest.fixture(scope="module", params=[8, 7])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Packed, Packed]:
    """A model with its tower in fp16, and in bytes of so many bits."""
    folder = tmp_path_factory.mktemp("tower")
    packed = read(packing.packed(folder / "fp16", packing.model())[0])
    (folder / "int8").mkdir()
    write(folder / "int8" / FILE, *in_bytes(packed, calibrate(packed, [_images(4, 0), _images(4, 1)]), request.param))
    export_graphs(folder / "int8")
    return packed, read(folder / "int8")


def test_codes_0_and_255_are_the_smallest_and_largest_input(both: tuple[Packed, Packed]) -> None:
    fp16, int8 = both
    low, high = calibrate(fp16, [_images(4, 0), _images(4, 1)])[FIRST]
    step, zero = float(int8.tensors[f"{FIRST}.input_scale"]), int(int8.tensors[f"{FIRST}.input_zero"])
    assert low < 0 < high
    assert -zero * step == pytest.approx(low, abs=step)
    assert (255 - zero) * step == pytest.approx(high, abs=step)


def test_every_map_of_the_layers_multiplies_bytes_and_no_other(both: tuple[Packed, Packed]) -> None:
    fp16, int8 = both
    assert (fp16.facts.tower, int8.facts.tower) == ("fp16", "int8")
    assert not any(name.endswith(".input_scale") for name in fp16.tensors)
    maps = {name.removesuffix(".input_scale") for name in int8.tensors if name.endswith(".input_scale")}
    assert len(maps) == MAPS
    assert all(name.startswith(LAYERS) and int8.tensors[f"{name}.rows"].dtype == np.int8 for name in maps)


def test_other_matrices_are_kept_in_bytes_and_small_ones_and_vectors_in_fp16(both: tuple[Packed, Packed]) -> None:
    fp16, int8 = both
    dtypes = {str(tensor.dtype) for name, tensor in int8.tensors.items() if tensor.ndim and "memory." not in name}
    assert dtypes == {"int8", "uint8", "float16"}  # uint8: ternary codes
    shapes = [int8.tensors[f"{POSITIONS}.{part}"].shape for part in ("rows", "scales")]
    assert shapes == [(1, 1 + fakes.PATCHES, 32), (1, 1 + fakes.PATCHES)]
    assert int8.tensors["match_head.weight"].dtype == np.float16
    np.testing.assert_array_equal(int8.tensors["memory.addresses"], fp16.tensors["memory.addresses"])
    for name in (POSITIONS, PATCHES):
        off = np.abs(int8.floats(name) - fp16.floats(name))
        assert 0 < off.max() <= 0.51 * int8.tensors[f"{name.removesuffix('.weight')}.scales"].max()


def test_torch_has_what_is_kept_in_bytes_number_for_number(both: tuple[Packed, Packed]) -> None:
    _, int8 = both
    model, _ = unpack.load(int8.path)
    for name in (POSITIONS, PATCHES, f"{FIRST}.weight", "text.token.weight"):
        np.testing.assert_array_equal(model.get_parameter(name).detach().numpy(), int8.floats(name))


@torch.no_grad()
def test_a_map_in_bytes_agrees_with_torch(both: tuple[Packed, Packed]) -> None:
    _, int8 = both
    model, x = unpack.load(int8.path)[0], 3 * fakes.noise(5, 32)
    expected = model.get_submodule(FIRST)(x)
    np.testing.assert_allclose(Arithmetic(int8).linear(x.numpy(), FIRST), expected.numpy(), rtol=0, atol=1e-5)


@torch.no_grad()
def test_images_agree_with_torch_and_onnx_runtime(both: tuple[Packed, Packed]) -> None:
    _, int8 = both
    images = _images(3, 2)
    expected = reference(int8).image_encoder(images)["embedding"]
    from_torch = unpack.load(int8.path)[0].encode_image(torch.from_numpy(images)).embedding.numpy()
    from_onnx = sessions(int8.path.parent, 1)("image_encoder", {"pixels": images})["embedding"]
    np.testing.assert_allclose(from_torch, expected, rtol=0, atol=0.02)
    np.testing.assert_allclose(from_onnx, expected, rtol=0, atol=0.02)


def test_the_tower_in_bytes_is_near_the_one_in_fp16(both: tuple[Packed, Packed]) -> None:
    fp16, int8 = both
    images = _images(3, 2)
    a, b = (reference(each).image_encoder(images)["embedding"] for each in (fp16, int8))
    assert (a * b).sum(axis=1).min() > 0.99


def test_its_products_are_of_bytes_and_queries_keys_and_values_share_their_codes(
    both: tuple[Packed, Packed], tmp_path: Path
) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "loaded.onnx"), 3
    onnxruntime.InferenceSession(both[1].path.parent / "image_encoder.onnx", options)
    graph = onnx.load(tmp_path / "loaded.onnx", load_external_data=False).graph
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds["MatMulIntegerToFloat"] == MAPS
    assert kinds["QuantizeLinear"] == 8  # of each of two layers: q k v, o, fc1, fc2
    assert kinds["DequantizeLinear"] == 0


def test_a_map_in_bytes_is_bit_for_bit_the_same_in_onnx_runtime(both: tuple[Packed, Packed], tmp_path: Path) -> None:
    packed, x = both[1], 3 * np.random.default_rng(0).normal(size=(2, 5, 32)).astype(np.float32)
    graph = Graph(packed)
    layer = graph.model("layer", {"x": (onnx.TensorProto.FLOAT, ("B", "S", 32))}, {"y": graph.linear("x", FIRST)}, "")
    (tmp_path / "layer.onnx").write_bytes(layer.SerializeToString())
    shutil.copy(packed.path, tmp_path)
    (found,) = onnxruntime.InferenceSession(tmp_path / "layer.onnx").run(None, {"x": x})
    np.testing.assert_array_equal(found, Arithmetic(packed).linear(x, FIRST))


def test_a_tower_is_not_calibrated_without_images_or_twice(both: tuple[Packed, Packed]) -> None:
    with pytest.raises(PackedError, match="expected images to calibrate the vision tower with, found none"):
        calibrate(both[0], [])
    with pytest.raises(PackedError, match="expected a vision tower in fp16 to calibrate, found int8"):
        calibrate(both[1], [_images(1, 0)])
