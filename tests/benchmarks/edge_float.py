"""The model of a packed file as ONNX graphs in fp32: what its graphs of bytes are compared with. Weights are in the graphs."""

from collections.abc import Sequence
from pathlib import Path

from bitgen.deploy.export import graph
from bitgen.deploy.onnx_graph import Graph
from bitgen.deploy.packed import Packed
from bitgen.deploy.parts import PARTS
from bitgen.deploy.reference import NORM_EPS


class FloatGraph(Graph):
    """Every product in fp32: a ternary layer's of its weights times their scale, its inputs normalised and not rounded."""

    def weight(self, name: str, shape: Sequence[int] | None = None) -> str:
        floats = self._packed.floats(name)
        return self.constant(floats if shape is None else floats.reshape(shape))

    def ternary(self, x: str, name: str) -> str:
        return self.linear(self.root_mean_square_norm(x, NORM_EPS), name)

    def linear(self, x: str, name: str) -> str:
        weight = self._packed.floats(f"{name}.weight")
        y = self.matmul(x, self.constant(weight.reshape(len(weight), -1).T.copy()))
        return self.add(y, self.weight(f"{name}.bias")) if f"{name}.bias" in self._packed.places else y

    def rows(self, name: str, numbers: str) -> str:
        return self.gather(self.weight(f"{name}.weight"), numbers)

    def products(self, x: str, name: str, count: int) -> str:
        return self.matmul(x, self.constant(self._packed.floats(f"{name}.weight")[:count].T.copy()))


def export_floats(packed: Packed, folder: Path) -> None:
    """The graphs of all parts, in a folder where `bitgen.deploy.runtime.sessions` finds them."""
    folder.mkdir(parents=True)
    for name in PARTS:
        (folder / f"{name}.onnx").write_bytes(graph(packed, name, FloatGraph).SerializeToString())
