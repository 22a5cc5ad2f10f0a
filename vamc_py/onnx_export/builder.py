"""Building an ONNX graph node by node: names are made here, weights are references into a file beside the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from vamc_py.artifact.manifest import Parameter
from vamc_py.onnx_export import quantized_linear

OPSET = 17  # the first with nothing newer than the runtimes in use; RMSNorm and rotary embedding are written out
IR_VERSION = 8  # the first that has functions in a model
ELEMENT_TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "int8": TensorProto.INT8,
    "int64": TensorProto.INT64,
}
Dimension = int | str  # a number, or the name of a dynamic axis


class Builder:
    """One graph. ``weights`` are the tensors in the file ``location``, by name; those that are used are declared."""

    def __init__(self, weights: Mapping[str, Parameter], location: str) -> None:
        self._weights = weights
        self._location = location
        self._nodes: list[NodeProto] = []
        self._initializers: dict[str, TensorProto] = {}
        self._inputs: list[ValueInfoProto] = []
        self._outputs: list[ValueInfoProto] = []

    def input(self, name: str, dtype: str, shape: Sequence[Dimension]) -> str:
        """Declares an input of the graph."""
        self._inputs.append(helper.make_tensor_value_info(name, ELEMENT_TYPES[dtype], list(shape)))
        return name

    def output(self, value: str, name: str, shape: Sequence[Dimension]) -> None:
        """Declares a float32 result of the graph and gives it a name."""
        self._nodes.append(helper.make_node("Identity", [value], [name], name=f"/{name}"))
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)))

    def op(self, kind: str, at: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """A node with one result; both are named ``at``, the place in the model, which has to be unique."""
        self._nodes.append(helper.make_node(kind, list(inputs), [at], name=at, domain=domain, **attributes))
        return at

    def split(self, at: str, value: str, sizes: Sequence[int]) -> list[str]:
        """The parts of the last axis."""
        parts = [f"{at}:{index}" for index in range(len(sizes))]
        self._nodes.append(helper.make_node("Split", [value, self.constant("int64", sizes)], parts, name=at, axis=-1))
        return parts

    def constant(self, dtype: str, values: Any) -> str:
        """A small tensor kept in the graph; equal ones are kept once."""
        array: npt.NDArray[Any] = np.asarray(values, dtype=dtype)
        name = "/".join(["constant", dtype, *map(str, array.shape), array.tobytes().hex()])
        if len(name) > 80:
            name = f"constant/{len(self._initializers)}"
        self._initializers.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def weight(self, name: str) -> str:
        """A tensor of the weights' file."""
        if name not in self._initializers:
            stored = self._weights[name]
            tensor = TensorProto(name=name, data_type=ELEMENT_TYPES[stored.dtype], dims=stored.shape)
            tensor.data_location = TensorProto.EXTERNAL
            place = {"location": self._location, "offset": stored.offset, "length": stored.size}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
            self._initializers[name] = tensor
        return name

    def dtype_of(self, weight: str) -> str:
        """How a tensor of the weights' file is stored."""
        return self._weights[weight].dtype

    def model(self, name: str, producer: str, version: str) -> ModelProto:
        """The whole model; the custom node's definition is in it where the node is used."""
        graph: GraphProto = helper.make_graph(
            self._nodes, name, self._inputs, self._outputs, list(self._initializers.values())
        )
        standard = helper.make_opsetid("", OPSET)
        opsets, functions = [standard], []
        if any(node.domain == quantized_linear.DOMAIN for node in self._nodes):
            opsets.append(helper.make_opsetid(quantized_linear.DOMAIN, quantized_linear.DOMAIN_VERSION))
            functions.append(quantized_linear.definition(standard))
        model: ModelProto = helper.make_model(
            graph,
            opset_imports=opsets,
            functions=functions,
            ir_version=IR_VERSION,
            producer_name=producer,
            producer_version=version,
        )
        return model
