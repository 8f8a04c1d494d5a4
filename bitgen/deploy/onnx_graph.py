"""`Operations` as nodes of an ONNX graph, in standard operators of opset 20, and one of ONNX Runtime's own for a tower in bytes.

Weights are not copied: an initialiser names its place in the packed file beside the graph, so that all graphs of a model share
that one file. Ternary codes are unpacked by shifts and masks, which a runtime folds into signed bytes when it loads; what is left
are products of unsigned bytes (codes + 128) with signed ones, the kind that every CPU has its fastest instructions for. Signed
with signed bytes are 20 times slower in ONNX Runtime on x86.

The scale of a ternary product goes through a Relu, which changes no positive number. ONNX Runtime (1.32 still) makes one node of
MatMulInteger, Cast and Mul by a product of two scales, and of an Add of a vector behind them, and computes that wrongly where a
scale is one of each row: nothing says so, tests/deploy/test_export.py does. The Relu is in the way of that.

Where scales are one of each column, as of the tower's maps, that node (MatMulIntegerToFloat) is right, and is written as such: the
numbers of its parts, bit for bit, without four passes over them. DINOv2-small takes 28.7 ms of one core so, 31.4 by its parts, and
30.7 by the standard way to ask for it, a MatMul of what DequantizeLinear gives, which leaves the bias to a node of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper, shape_inference

from bitgen.deploy.operations import Value
from bitgen.deploy.packed import CODES, FILE, INPUT_SCALE, INPUT_ZERO, ROWS, SCALE, SCALES, Packed
from bitgen.deploy.reference import LEVELS, NORM_EPS, SMALLEST_PEAK, WIDE_LEVELS

OPSET, IR_VERSION = 20, 10
RUNTIMES_OWN = "com.microsoft"
_TYPES: Mapping[str, int] = {
    "F32": TensorProto.FLOAT,
    "F16": TensorProto.FLOAT16,
    "I32": TensorProto.INT32,
    "I8": TensorProto.INT8,
    "U8": TensorProto.UINT8,
}
ZERO_POINT = 128
"""Of activations as unsigned bytes."""

Input = tuple[int, Sequence[str | int]]
"""An element type of ONNX's, and axes: a size, or a name where it may change."""


class Graph:
    """Collects the nodes of one graph over the weights of `packed`."""

    def __init__(self, packed: Packed) -> None:
        self._packed = packed
        self._nodes: list[NodeProto] = []
        self._initialisers: dict[str, TensorProto] = {}
        self._shapes: dict[str, ValueInfoProto] = {}
        """Of what no standard operator gives, by its name."""
        self._made: dict[Any, str] = {}
        """Nodes and constants that are there already, by what they are."""

    def model(self, name: str, inputs: Mapping[str, Input], outputs: Mapping[str, Value], facts: str) -> ModelProto:
        """The finished graph; `outputs` by the names that they are to have. `facts`: a line for whoever opens the file."""
        for output, value in outputs.items():
            self._nodes.append(helper.make_node("Identity", [value], [output]))
        graph: GraphProto = helper.make_graph(
            self._nodes,
            name,
            [helper.make_tensor_value_info(each, *of) for each, of in inputs.items()],
            [helper.make_tensor_value_info(each, TensorProto.FLOAT, None) for each in outputs],
            list(self._initialisers.values()),
            doc_string=facts,
            value_info=list(self._shapes.values()),
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(RUNTIMES_OWN, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="bitgen")
        shaped = shape_inference.infer_shapes(model, strict_mode=True).graph.output
        del model.graph.output[:]
        model.graph.output.extend(shaped)
        return model

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """The one output of a node: of a new one, or of the one that does the same already."""
        key = kind, inputs, repr(sorted(attributes.items()))
        if key not in self._made:
            self._made[key] = f"v{len(self._nodes)}"
            self._nodes.append(helper.make_node(kind, inputs, [self._made[key]], **attributes))
        return self._made[key]

    def weight(self, name: str, shape: Sequence[int] | None = None) -> str:
        if name in self._packed.places:
            return self._wide(name, shape)
        stem = name.removesuffix(".weight")
        codes, scales = (self._packed.places[stem + part].shape for part in (ROWS, SCALES))
        spread = scales + (1,) * (len(codes) - len(scales))
        wide = self.multiply(self.floats(self._stored(stem + ROWS)), self._wide(stem + SCALES, spread))
        return wide if shape is None else self.reshape(wide, shape)

    def constant(self, found: NDArray[Any] | np.generic | float) -> str:
        array = found if isinstance(found, np.ndarray) else np.asarray(found, getattr(found, "dtype", np.float32))
        key = array.dtype.str, array.shape, array.tobytes()
        if key not in self._made:
            name = f"c{len(self._initialisers)}"
            self._initialisers[name] = numpy_helper.from_array(array, name)
            self._made[key] = name
        return self._made[key]

    def ternary(self, x: str, name: str) -> str:
        levels = self.constant(LEVELS)
        peak = self._peak(x)
        codes = self._bytes(self.node("Round", self.multiply(x, self.divide(levels, peak))))
        sums = self.node("MatMulInteger", codes, self._ternary_weight(name), self.constant(np.uint8(ZERO_POINT)))
        wide = self.node("Cast", x, to=TensorProto.DOUBLE)
        square = self.node("ReduceMean", self.multiply(wide, wide), self._numbers(-1), keepdims=1)
        length = self.node("Sqrt", self.add(square, self.constant(np.float64(NORM_EPS))))
        inverse = self.node("Cast", self.divide(self.constant(np.float64(1)), length), to=TensorProto.FLOAT)
        scale = self.multiply(self.multiply(self.divide(peak, levels), inverse), self._stored(name + SCALE))
        return self.multiply(self.floats(sums), self.node("Relu", scale))

    def linear(self, x: str, name: str) -> str:
        bias = self.weight(f"{name}.bias") if f"{name}.bias" in self._packed.places else ""
        if name + INPUT_SCALE in self._packed.places:
            return self._byte_products(x, name, bias)
        y = self._float_products(x, name)
        return self.add(y, bias) if bias else y

    def rows(self, name: str, numbers: str) -> str:
        count = self._packed.places[name + SCALES].shape[0]
        codes = self.node("Gather", self._stored(name + ROWS), numbers)
        scales = self.node("Gather", self._wide(name + SCALES, (count, 1)), numbers)
        return self.multiply(self.floats(codes), scales)

    def products(self, x: str, name: str, count: int) -> str:
        peak, levels = self._peak(x), self.constant(WIDE_LEVELS)
        wide = self.node("Round", self.multiply(x, self.divide(levels, peak)))
        high = self.node("Round", self.divide(wide, self.constant(256.0)))
        low = self.subtract(wide, self.multiply(high, self.constant(256.0)))
        first = self._numbers(0)
        halves = self.concat([self.node("Unsqueeze", half, first) for half in (high, low)], 0)
        weight = self.transpose(self._first(self._stored(name + ROWS), count), (1, 0))
        sums = self.node("MatMulInteger", self._bytes(halves), weight, self.constant(np.uint8(ZERO_POINT)))
        worth = self.constant(np.array([256, 1], np.float32).reshape(2, 1, 1, 1))
        both = self.sum(self.multiply(self.floats(sums), worth), 0)
        scales = self._first(self._wide(name + SCALES), count)
        return self.multiply(self.multiply(both, self.divide(peak, levels)), scales)

    def gather(self, x: str, numbers: str) -> str:
        return self.node("Gather", x, numbers)

    def layer_norm(self, x: str, name: str, eps: float = 1e-5) -> str:
        weight, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.node("LayerNormalization", x, weight, bias, axis=-1, epsilon=eps)

    def root_mean_square_norm(self, x: str, eps: float) -> str:
        square = self.node("ReduceMean", self.multiply(x, x), self._numbers(-1), keepdims=1)
        return self.divide(x, self.node("Sqrt", self.add(square, self.constant(eps))))

    def gelu(self, x: str) -> str:
        return self.node("Gelu", x)

    def tanh(self, x: str) -> str:
        return self.node("Tanh", x)

    def sigmoid(self, x: str) -> str:
        return self.node("Sigmoid", x)

    def softmax(self, x: str) -> str:
        return self.node("Softmax", x, axis=-1)

    def unit(self, x: str) -> str:
        length = self.node("ReduceL2", x, self._numbers(-1), keepdims=1)
        return self.divide(x, self.node("Max", length, self.constant(1e-12)))

    def add(self, a: str, b: str) -> str:
        return self.node("Add", a, b)

    def subtract(self, a: str, b: str) -> str:
        return self.node("Sub", a, b)

    def multiply(self, a: str, b: str) -> str:
        return self.node("Mul", a, b)

    def divide(self, a: str, b: str) -> str:
        return self.node("Div", a, b)

    def matmul(self, a: str, b: str) -> str:
        return self.node("MatMul", a, b)

    def hide(self, scores: str, seen: str) -> str:
        return self.node("Where", seen, scores, self.constant(-np.inf))

    def mean(self, x: str, axis: int) -> str:
        return self.node("ReduceMean", x, self._numbers(axis), keepdims=0)

    def sum(self, x: str, axis: int) -> str:
        return self.node("ReduceSum", x, self._numbers(axis), keepdims=0)

    def floats(self, x: str) -> str:
        return self.node("Cast", x, to=TensorProto.FLOAT)

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        return self.node("Reshape", x, self._numbers(*shape))

    def reshape_as(self, x: str, like: str) -> str:
        return self.node("Reshape", x, self.node("Shape", like))

    def transpose(self, x: str, axes: Sequence[int]) -> str:
        return self.node("Transpose", x, perm=axes)

    def concat(self, parts: Sequence[str], axis: int) -> str:
        return self.node("Concat", *parts, axis=axis)

    def cut(self, x: str, axis: int, start: int, stop: int) -> str:
        return self.node("Slice", x, self._numbers(start), self._numbers(stop), self._numbers(axis))

    def repeat(self, x: str, like: str) -> str:
        # As many axes as the longest array that is repeated has: leading ones of a shape are ones.
        return self.node("Expand", x, self._rows_of(like, x))

    def _rows_of(self, like: str, x: str) -> str:
        """The shape of x with as many rows as `like`."""
        rest = self.node("Shape", x, start=1)
        return self.concat([self.node("Shape", like, start=0, end=1), rest], 0)

    def _stored(self, name: str, shape: Sequence[int] | None = None) -> str:
        """An initialiser whose bytes are those of the packed file."""
        place = self._packed.places[name]
        shape = place.shape if shape is None else tuple(shape)
        label = name if shape == place.shape else f"{name}{list(shape)}"
        if label not in self._initialisers:
            tensor = TensorProto(name=label, dims=shape, data_type=_TYPES[place.dtype])
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", FILE), ("offset", place.offset), ("length", place.size_bytes)):
                tensor.external_data.add(key=key, value=str(value))
            self._initialisers[label] = tensor
        return label

    def _wide(self, name: str, shape: Sequence[int] | None = None) -> str:
        """Likewise, in fp32."""
        stored = self._stored(name, shape)
        return stored if self._packed.places[name].dtype == "F32" else self.floats(stored)

    def _ternary_weight(self, name: str) -> str:
        """int8 [I, O]."""
        outputs, size = self._packed.places[name + CODES].shape
        stored = self._stored(name + CODES, (outputs, size, 1))
        shifted = self.node("BitShift", stored, self.constant(np.array([0, 2, 4, 6], np.uint8)), direction="RIGHT")
        codes = self.reshape(self.node("BitwiseAnd", shifted, self.constant(np.uint8(3))), (outputs, 4 * size))
        codes = self.cut(codes, 1, 0, self._packed.facts.in_widths[name])
        signed = self.subtract(self.node("Cast", codes, to=TensorProto.INT32), self.constant(np.int32(1)))
        return self.transpose(self.node("Cast", signed, to=TensorProto.INT8), (1, 0))

    def _float_products(self, x: str, name: str) -> str:
        place = self._packed.places.get(f"{name}.weight") or self._packed.places[name + ROWS]
        rows, *rest = place.shape
        return self.matmul(x, self.transpose(self.weight(f"{name}.weight", (rows, int(np.prod(rest)))), (1, 0)))

    def _byte_products(self, x: str, name: str, bias: str) -> str:
        """Of x [B, S, I]."""
        # Constants, not places in the file: maps of one input then share its codes (ONNX Runtime merges equal nodes).
        step, zero = (self.constant(np.array(self._packed.tensors[name + of])) for of in (INPUT_SCALE, INPUT_ZERO))
        codes, weight = self.node("QuantizeLinear", x, step, zero), self.transpose(self._stored(name + ROWS), (1, 0))
        given = codes, weight, step, self._wide(name + SCALES), zero, "", bias
        y = self.node("MatMulIntegerToFloat", *given, domain=RUNTIMES_OWN)
        shape = "B", "S", self._packed.places[name + ROWS].shape[0]
        self._shapes[y] = helper.make_tensor_value_info(y, TensorProto.FLOAT, shape)
        return y

    def _first(self, stored: str, count: int) -> str:
        return self.cut(stored, 0, 0, count)

    def _peak(self, x: str) -> str:
        peak = self.node("ReduceMax", self.node("Abs", x), self._numbers(-1), keepdims=1)
        return self.node("Max", peak, self.constant(SMALLEST_PEAK))

    def _bytes(self, codes: str) -> str:
        """Of whole numbers from -128 to 127 in fp32, as unsigned bytes."""
        return self.node("Cast", self.add(codes, self.constant(float(ZERO_POINT))), to=TensorProto.UINT8)

    def _numbers(self, *numbers: int) -> str:
        return self.constant(np.array(numbers, np.int64))
