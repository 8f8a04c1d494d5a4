"""A checkpoint becomes a folder that a runtime without torch reads: the packed file, and ONNX graphs over it.

    FOLDER/model.safetensors                                       all weights, each once (`packed.py`)
    FOLDER/image_encoder.onnx, text_encoder.onnx, fusion.onnx,     what is computed with them (`parts.py`); their weights are
           grounding.onnx, decoder_start.onnx, decoder_step.onnx   places in that file
    FOLDER/state.json                                              the checkpoint's, which evaluation asks and the runtime does not

Only the graphs need the package onnx.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from onnx import ModelProto, TensorProto, checker, helper

from bitgen.deploy.onnx_graph import Graph, Input
from bitgen.deploy.operations import Value
from bitgen.deploy.packed import FILE, GRAPH_OF, Packed, identity, read
from bitgen.deploy.parts import PARTS, Parts

FLOAT, BOOL, INT64, UINT8 = TensorProto.FLOAT, TensorProto.BOOL, TensorProto.INT64, TensorProto.UINT8


def export_graphs(folder: Path) -> dict[str, Path]:
    """Write the graph of every part beside the packed file of `folder`; their paths by part.

    Raises `bitgen.deploy.packed.PackedError` where that is none, `OSError` where a graph cannot be written.
    """
    packed = read(folder)
    of = {GRAPH_OF: identity(packed)}
    written = {}
    for name in PARTS:
        path = folder / f"{name}.onnx"
        temporary = folder / f".{name}.{os.getpid()}.onnx"
        try:
            model = graph(packed, name)
            helper.set_model_props(model, of)
            temporary.write_bytes(model.SerializeToString(deterministic=True))
            checker.check_model(str(temporary), full_check=True)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        written[name] = path
    return written


def graph(packed: Packed, name: str, form: type[Graph] = Graph) -> ModelProto:
    """The graph of one part; its weights lie in the packed file, beside which it has to lie. `form`: what its nodes are."""
    building = form(packed)
    parts = Parts(building, packed.facts)
    inputs = _inputs(parts)[name]
    facts = packed.facts
    said = f"{name} of {facts.run}, step {facts.step}, over {FILE}"
    if name == "decoder_step":
        given = ("rows", "position", "seen")
        outputs = parts.decoder_step(*given, cache={each: each for each in inputs if each not in given})
    else:
        part: Callable[..., Mapping[str, Value]] = getattr(parts, name)
        outputs = part(*inputs)
    return building.model(name, inputs, outputs, said)


def _inputs(parts: Parts) -> Mapping[str, Mapping[str, Input]]:
    """What each part is given, in the order of its arguments. Sizes that a model fixes are numbers."""
    config, px = parts.config, parts.facts.image_px
    n, d, h = parts.patches, config.width, config.heads
    text: Mapping[str, Input] = {"text": (FLOAT, ("T", "L", d)), "mask": (BOOL, ("T", "L"))}
    layers = range(config.decoder_layers)
    past = {f"past_{kind}_{i}": (FLOAT, ("B K", h, "L", d // h)) for i in layers for kind in ("key", "value")}
    context = {f"context_{kind}_{i}": (FLOAT, ("B", h, n + 1, d // h)) for i in layers for kind in ("key", "value")}
    return {
        "image_encoder": {"pixels": (UINT8, ("B", 3, px, px))},
        "text_encoder": {"rows": (INT64, ("T", "L")), "positions": (INT64, ("L",)), "mask": (BOOL, ("T", "L"))},
        "fusion": {"image": (FLOAT, ("T", n, d)), **text},
        "grounding": {
            "fused_image": (FLOAT, ("T", n, d)),
            "fused_text": (FLOAT, ("T", "L", d)),
            "shares": (FLOAT, ("T", "P", "L")),
        },
        "decoder_start": {"dual": (FLOAT, ("B", n, d)), "reading": (FLOAT, ("B", d))},
        "decoder_step": {
            "rows": (INT64, ("B", "K")),
            "position": (INT64, (1,)),
            "seen": (BOOL, ("B", n + 1)),
            **past,
            **context,
        },
    }
