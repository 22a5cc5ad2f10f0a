"""The node ``Vastai::QuantizedLinearPerChannel``, and what it computes in standard ONNX operators.

The definition travels in the model as a local function: a runtime that does not know the node runs the definition, a
tool that knows it sees the node.
"""

from __future__ import annotations

from onnx import FunctionProto, OperatorSetIdProto, TensorProto, helper

DOMAIN = "Vastai"
DOMAIN_VERSION = 1
OPERATOR = "QuantizedLinearPerChannel"


def definition(opset: OperatorSetIdProto) -> FunctionProto:
    """y f32 [..., N] of x f32 [..., K], weight int8 [N, K] and scale f32 [N]: y = (x @ weight.T) * scale."""
    nodes = [
        helper.make_node("Cast", ["weight"], ["float_weight"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float_weight"], ["columns"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "columns"], ["product"]),
        helper.make_node("Mul", ["product", "scale"], ["y"]),
    ]
    return helper.make_function(DOMAIN, OPERATOR, ["x", "weight", "scale"], ["y"], nodes, [opset])
