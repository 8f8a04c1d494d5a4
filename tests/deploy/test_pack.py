"""A packed file holds the model, in the bytes that it was trained for, and gives it back."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from bitgen.deploy import unpack
from bitgen.deploy.pack import TOKEN, merged, pack, trimmed
from bitgen.deploy.packed import FILE, KEY, PackedError, read
from bitgen.model.bitlinear import BitLinear, ternarise
from bitgen.tokens import EOT, VOCABULARY
from tests import fakes, packing

KEPT = (3, 500, 1000, EOT)


def _images(count: int = 2) -> torch.Tensor:
    shape = (count, 3, fakes.SIDE, fakes.SIDE)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packing.packed(tmp_path_factory.mktemp("packed"), packing.model())[0]


def test_ternary_layers_come_back_bit_for_bit(file: Path) -> None:
    model, (found, _) = packing.model(), unpack.load(file)
    layers = {
        name: module for name, module in model.named_modules() if isinstance(module, BitLinear) and module.ternary
    }
    for name, module in layers.items():
        expected, again = ternarise(module.weight), ternarise(found.get_submodule(name).weight)  # type: ignore[arg-type] (a module of any kind)
        assert again[0].equal(expected[0]), name
        assert again[1].equal(expected[1]), name
    assert len(layers) > 20


def test_a_ternary_layer_takes_two_bits_a_weight(file: Path) -> None:
    tensors = load_file(file)
    codes = tensors["text.layers.0.feed_forward.up.codes"]
    assert (codes.dtype, codes.shape) == (np.uint8, (24, fakes.WIDTH // 4))


def test_the_embedding_takes_a_byte_a_weight_and_a_scale_a_row(file: Path) -> None:
    tensors = load_file(file)
    rows, scales = tensors["text.token.rows"], tensors["text.token.scales"]
    assert (rows.dtype, rows.shape) == (np.int8, (VOCABULARY, fakes.WIDTH))
    assert (scales.dtype, scales.shape) == (np.float16, (VOCABULARY,))
    expected = packing.model().text.token.weight.detach().numpy()
    wide = scales.astype(np.float32)[:, None]
    assert (np.abs(rows * wide - expected) <= 0.501 * wide).all()


def test_merged_adapters_compute_what_the_adapted_tower_does(tmp_path: Path) -> None:
    model = packing.model()
    found, _ = unpack.load(packing.packed(tmp_path, model)[0])
    assert not any(".lora_" in name for name in found.state_dict())
    with torch.no_grad():
        expected, without = model.vision(_images()), packing.model(vision={"mode": "frozen"}).vision(_images())
        difference = (found.vision(_images()) - expected).abs().max()
    assert difference < 0.01  # of states of about 1: fp16 weights
    assert (without - expected).abs().max() > 10 * difference


def test_positions_are_those_of_the_models_image_size(tmp_path: Path, file: Path) -> None:
    model = packing.model()
    assert read(file).tensors["vision.backbone.embeddings.position_embeddings"].shape == (1, 1 + fakes.PATCHES, 32)
    found, packed = unpack.load(file)
    assert (packed.facts.vision["image_size"], packed.facts.image_px) == (fakes.SIDE, fakes.SIDE)
    assert model.vision.config_dict()["image_size"] != fakes.SIDE
    assert found.vision(_images()).shape == model.vision(_images()).shape


def test_the_facts_say_where_the_model_comes_from(file: Path) -> None:
    facts = read(file).facts
    assert (facts.run, facts.phase, facts.step, facts.holdout_sha256) == ("tiny", "fine", 8, "ab" * 32)
    assert len(facts.tokenizer_sha256) == 64


def test_packing_leaves_the_model_as_it_is(tmp_path: Path) -> None:
    model = packing.model()
    packing.packed(tmp_path, model)
    expected = packing.model().state_dict()
    assert [name for name, tensor in model.state_dict().items() if not tensor.equal(expected[name])] == []


def test_packing_twice_gives_the_same_bytes(tmp_path: Path, file: Path) -> None:
    assert packing.packed(tmp_path, packing.model())[0].read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    "fields",
    [
        {"ternary": False},
        {"fusion": "concat", "text_pooling": "end"},
        {"vision": {"feature_layers": 2, "lora_layers": 1}},
        {"vision": {"mode": "full"}},
        {"vocabulary": len(KEPT), "kept": KEPT},
        {"width": 24, "ffn": 18, "heads": 2},  # 18 inputs: the last byte of a row is not full
        {"memory_inverse": "newton"},
    ],
    ids=str,
)
def test_every_kind_of_model_comes_back(tmp_path: Path, fields: dict[str, Any]) -> None:
    model = packing.model(**fields)
    found, _ = unpack.load(packing.packed(tmp_path, model)[0])
    ids = torch.tensor([[EOT, 3, 500, 7, EOT]])
    with torch.no_grad():
        expected = model.encode_image(_images()).embedding, model.encode_text(ids, ids > 0).embedding
        came = found.encode_image(_images()).embedding, found.encode_text(ids, ids > 0).embedding
    for a, b in zip(came, expected, strict=True):
        assert (a * b).sum(dim=1).min() > 0.99


def test_a_trimmed_vocabulary_keeps_the_rows_of_its_tokens(tmp_path: Path) -> None:
    model = packing.model()
    found, packed = unpack.load(packing.packed(tmp_path, model, tokens=[3, 1000, 500])[0])
    assert packed.tensors["text.token.kept"].tolist() == list(KEPT)
    assert found.config.vocabulary == len(KEPT)
    expected = model.text.token(torch.tensor([500, EOT]))
    torch.testing.assert_close(found.text.token(torch.tensor([500, EOT])), expected, rtol=0, atol=1e-3)
    assert found.text.token(torch.tensor([501])).abs().max() == 0


def test_trimming_a_trimmed_vocabulary_keeps_its_row_of_all_others() -> None:
    model = packing.model(vocabulary=len(KEPT), kept=KEPT)
    weights = merged(model, fakes.SIDE)
    found, kept = trimmed(weights, [500, 4000])
    assert kept == [500, EOT]
    assert found[TOKEN].equal(weights[TOKEN][[1, 3, 4]])


def test_an_id_that_is_no_token_is_refused() -> None:
    with pytest.raises(PackedError, match="expected token ids from 0 to 50256, found -1 to 50257"):
        trimmed({}, [-1, 50257])


def test_a_weight_beyond_fp16_is_refused(tmp_path: Path) -> None:
    model = packing.model()
    with torch.no_grad():
        model.match_head.weight[0, 0] = 7e4
    with pytest.raises(PackedError, match=r"within fp16 of match_head\.weight, found 70000"):
        pack(model, packing.state(model), tmp_path / FILE)
    assert list(tmp_path.iterdir()) == []


def _with(file: Path, path: Path, **changes: Any) -> Path:
    """A copy of the file whose metadata are changed."""
    with safe_open(file, "np") as opened:
        fields = json.loads(opened.metadata()[KEY])
    save_file(load_file(file), path, {KEY: json.dumps({**fields, **changes})})
    return path


def test_a_version_of_the_future_is_refused(tmp_path: Path, file: Path) -> None:
    with pytest.raises(PackedError, match="expected a packed format from 1 to 2, found 3"):
        read(_with(file, tmp_path / FILE, format_version=3))


def test_another_safetensors_file_is_refused(tmp_path: Path) -> None:
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / FILE)
    with pytest.raises(PackedError, match="expected the metadata of a packed model"):
        read(tmp_path)


@pytest.mark.parametrize(
    "fields",
    [{"image_px": 10**6}, {"image_px": "56"}, {"max_tokens": 257}, {"max_tokens": True}],
    ids=str,
)
def test_sizes_that_no_model_has_are_refused(tmp_path: Path, file: Path, fields: dict[str, Any]) -> None:
    (name,) = fields
    with pytest.raises(PackedError, match=f"expected a whole {name} of 1 to"):
        read(_with(file, tmp_path / FILE, **fields))


@pytest.mark.parametrize("shape", [[2**32, 2**32], [-1, -4], [2.0, 2], ["4"]], ids=str)
def test_a_shape_that_is_none_is_refused(tmp_path: Path, file: Path, shape: list[Any]) -> None:
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["none"] = {
        "dtype": "U8",
        "shape": shape,
        "data_offsets": [0, 0 if len(shape) == 2 and 2**32 in shape else 4],
    }
    head = json.dumps(header).encode()
    (tmp_path / FILE).write_bytes(len(head).to_bytes(8, "little") + head + content[8 + length :])
    with pytest.raises(PackedError, match="of none"):
        read(tmp_path)


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_a_file_that_is_cut_is_refused(tmp_path: Path, file: Path, kept: int) -> None:
    (tmp_path / FILE).write_bytes(file.read_bytes()[:kept])
    with pytest.raises(PackedError):
        read(tmp_path)


def test_a_missing_tensor_is_refused(tmp_path: Path, file: Path) -> None:
    tensors = load_file(file)
    del tensors["match_head.bias"]
    with safe_open(file, "np") as opened:
        save_file(tensors, tmp_path / FILE, opened.metadata())
    with pytest.raises(PackedError, match=r"missing \['match_head\.bias'\]"):
        unpack.load(tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackedError, match=r"expected a packed model, a folder with model\.safetensors"):
        read(tmp_path)
