"""The ONNX graph of a decoder as a Relax program, in the form of ``frontend.import_relax``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper
from tvm import relax

from vamc_py.checkpoint import Checkpoint
from vamc_py.checkpoint.onnx_checkpoint import OnnxCheckpoint
from vamc_py.errors import CheckpointError
from vamc_py.frontend.onnx_import.host import FUNCTIONS, Array, float_type, tidied
from vamc_py.frontend.onnx_import.lengths import Lengths, UnclearLengthError
from vamc_py.frontend.onnx_import.operators import CONVERTERS, Call, UnsupportedError
from vamc_py.pipeline.graph import Graph
from vamc_py.pipeline.matching import constant as constant_of
from vamc_py.pipeline.matching import shape, static
from vamc_py.pipeline.program import CACHES_ATTRIBUTE, INPUTS_ATTRIBUTE, MASK_ATTRIBUTE, Program
from vamc_py.weights.plan import Cast, ParameterPlan, Recipe

# These make one tensor of the file into another small one; what computes with a tensor makes it a weight.
_MOVING = {"Slice", "Gather", "Squeeze", "Unsqueeze", "Reshape", "Expand", "Concat"}
_LARGEST_CONSTANT = 1 << 24  # elements; a table of rotations for 128k positions has 16 million


@dataclass(frozen=True)
class _Tensor:
    """A tensor of the file, before it is clear whether it is a weight or a constant."""

    initializer: str


def import_onnx(checkpoint: Checkpoint, *, context: int) -> Program:
    """The graph as ``main(input_ids, attention_mask, position_ids, past…, weights…)``, nothing raised yet.

    Types and order are those of ``import_traced``, dynamic in n and p, whatever lengths the graph was exported for.
    Weights have the names of the checkpoint's tensors and are float32, those that come quantized dequantized. A prefill
    graph gets the past that it lacks, in front of the keys and values that it returns. Raises CheckpointError where the
    graph has operators that are not known, lengths that cannot be told, or a table shorter than ``context`` positions.
    """
    assert isinstance(checkpoint, OnnxCheckpoint)
    return _Importer(checkpoint, context).run()


class _Importer:
    def __init__(self, checkpoint: OnnxCheckpoint, context: int) -> None:
        self.checkpoint = checkpoint
        self.file = checkpoint.file
        self.roles = checkpoint.roles
        self.context = context
        self.lengths = Lengths(self.roles.new_length, self.roles.past_length)
        self.bindings: dict[Any, Any] = {}
        self.values: dict[str, Any] = {name: _Tensor(name) for name in self.file.stored}  # by ONNX name
        self.weights = {name: _weight(checkpoint, name) for name in self.file.stored}
        self.used: dict[str, Any] = {}
        self.positional: set[Any] = set()  # values that depend on the positions alone

    def run(self) -> Program:
        inputs, past = self._inputs()
        grown = {} if self.roles.past else self._new_keys_and_values(past)
        self._take_mask(inputs[1])
        for node in self.file.model.graph.node:
            self._convert(node)
            for name in grown.keys() & set(node.output):
                self.values[name] = self._emit(relax.op.concat([grown[name], self.values[name]], axis=2))
        names = [self.roles.logits, *(name for pair in self.roles.present for name in pair)]
        self._check_logits(self._result(self.roles.logits))
        results = self._emit(relax.Tuple([self._result(name) for name in names]))
        block = relax.BindingBlock([relax.VarBinding(var, value) for var, value in self.bindings.items()])
        body = relax.SeqExpr([block], results)
        attributes = {INPUTS_ATTRIBUTE: len(inputs), CACHES_ATTRIBUTE: 0, MASK_ATTRIBUTE: self._mask_kind()}
        # Rebuilt, only what the results need is left, in one dataflow block.
        whole = relax.Function([*inputs, *self.used.values()], body, results.ty)
        graph = Graph(whole)
        used = {name: var for name, var in self.used.items() if graph.users[var]}  # not the scales of int8 layers
        function = graph.rebuild(parameters=[*inputs, *used.values()], attributes=attributes)
        steps = {name: () if str(var.ty.dtype) == "int8" else (Cast("float32"),) for name, var in used.items()}
        plan = ParameterPlan({name: Recipe((name,), steps[name]) for name in used})
        return Program(tvm.IRModule(), plan).with_function(function)

    def _inputs(self) -> tuple[list[Any], dict[str, Any]]:
        """The parameters of main that are inputs, and those of the past by the result that continues them."""
        roles, n, p = self.roles, self.lengths.n, self.lengths.p
        ids, positions = (relax.Var(name, relax.TensorType([1, n], "int64")) for name in ("input_ids", "position_ids"))
        mask = relax.Var("attention_mask", relax.TensorType([1, 1, n, p + n], "float32"))
        past, continued = [], {}
        for layer, pair in enumerate(roles.present):
            for part, result in zip("kv", pair, strict=True):
                kind = relax.TensorType([1, roles.kv_heads, p, roles.head_dim], "float32")
                past.append(relax.Var(f"past_{part}_{layer}", kind))
                continued[result] = past[-1]
        self.values |= {roles.input_ids: ids, roles.position_ids: positions}
        names = [name for pair in roles.past for name in pair]
        self.values |= dict(zip(names, past, strict=True)) if names else {}
        self.positional.add(positions)
        return [ids, mask, positions, *past], continued

    def _take_mask(self, mask: Any) -> None:
        """A graph may take it as integers or bools."""
        declared = next(value for value in self.file.inputs if value.name == self.roles.attention_mask)
        dtype = float_type(declared.type.tensor_type.elem_type).name
        self.values[declared.name] = mask if dtype == "float32" else self._emit(relax.op.astype(mask, dtype))

    def _mask_kind(self) -> str:
        """Whether the mask is added to the scores as it is, or says 1 where a token attends."""
        users = [node for node in self.file.model.graph.node if self.roles.attention_mask in node.input]
        return "additive" if any(node.op_type == "Add" for node in users) else "ones"

    def _new_keys_and_values(self, past: dict[str, Any]) -> dict[str, Any]:
        """The past that a prefill graph lacks, by the value that it belongs in front of."""
        renamed = {node.output[0]: node.input[0] for node in self.file.model.graph.node if node.op_type == "Identity"}
        behind = {}
        for result, var in past.items():
            while result in renamed:
                result = renamed[result]
            behind[result] = var
        return behind

    def _convert(self, node: NodeProto) -> None:
        attributes = {one.name: _attribute(one) for one in node.attribute}
        if node.op_type == "Constant":
            self.values[node.output[0]] = _constant(attributes)
            return
        try:
            inputs = [self.values[name] if name else None for name in node.input]
        except KeyError as missing:
            raise self._fault(node, f"it reads {missing}, which is nowhere before it") from None
        try:
            value = self._evaluated(node, inputs, attributes)
        except UnclearLengthError as error:
            what = f"{error}, and the graph's fixed lengths do not tell which is the tokens'; export it dynamic"
            raise self._fault(node, what) from error
        except UnsupportedError as error:
            raise self._fault(node, str(error)) from error
        except (ValueError, TypeError, IndexError, tvm.error.InternalError) as error:
            raise self._fault(node, (str(error).strip().splitlines() or ["no message"])[-1]) from error
        if len(node.output) == 1:
            self.values[node.output[0]] = value
        else:
            parts = [self._emit(relax.TupleGetItem(value, index)) for index in range(len(node.output))]
            self.values |= dict(zip(node.output, parts, strict=True))

    def _evaluated(self, node: NodeProto, inputs: list[Any], attributes: dict[str, Any]) -> Any:
        """The value of a node: an array, a tensor of the file, or a Relax variable."""
        if node.op_type == "Shape":
            return self._shape(inputs[0], attributes)
        if node.op_type == "Identity" or self._only_widens(node, inputs[0]):
            return inputs[0]
        tensors = [value for value in inputs if isinstance(value, relax.Expr)]
        constant = all(value in self.positional for value in tensors)
        if constant and (tensors or node.op_type in _MOVING):
            inputs = [self._array(value) if isinstance(value, _Tensor) else value for value in inputs]
            self._check_table(node, inputs)
        constant = constant and not any(isinstance(value, _Tensor) for value in inputs)
        if constant and not tensors and not _is_slice_by_length(node, inputs):
            if node.op_type in FUNCTIONS:
                return tidied(FUNCTIONS[node.op_type]([value for value in inputs if value is not None], attributes))
            raise UnsupportedError("it computes with constants in a way that is not known")
        converter = CONVERTERS.get(node.op_type)
        if converter is None:
            raise UnsupportedError("the operator is not known")
        inputs = [
            self._parameter(node, at, value) if isinstance(value, _Tensor) else value for at, value in enumerate(inputs)
        ]
        attributes = {**attributes, "outputs": len(node.output)}
        call = Call(inputs, attributes, self.lengths, self._emit, self._bound)
        value = self._emit(converter(call))
        if constant:
            self.positional.add(value)
        return value

    def _only_widens(self, node: NodeProto, value: Any) -> bool:
        """Whether a node casts a tensor of the file between floats, all of which are float32 here."""
        if node.op_type != "Cast" or not isinstance(value, _Tensor):
            return False
        weight = self.weights[value.initializer]
        return weight is not None and str(weight.ty.dtype) == "float32"

    def _shape(self, value: Any, attributes: dict[str, Any]) -> Array:
        if isinstance(value, _Tensor):
            dimensions: list[Any] = list(self.file.stored[value.initializer].shape)
        else:
            dimensions = list(value.shape) if isinstance(value, np.ndarray) else shape(value)
        sizes = np.empty(len(dimensions), object)
        sizes[:] = [self.lengths.simple(size) for size in dimensions]
        return tidied(sizes[attributes.get("start", 0) : attributes.get("end", len(dimensions))])

    def _array(self, tensor: _Tensor) -> Array:
        """A tensor of the file as a constant."""
        values = self.file.array(tensor.initializer)
        if values.size > _LARGEST_CONSTANT:
            raise UnsupportedError(f"{tensor.initializer}, {list(values.shape)}, is too large for a constant")
        return values.astype(np.float32) if _is_float(values.dtype) else values

    def _check_table(self, node: NodeProto, inputs: list[Any]) -> None:
        """A table with a row for each position has one for every position of the context."""
        if node.op_type != "Gather" or isinstance(inputs[1], np.ndarray):
            return
        table, sliced = inputs[0], self._bound(inputs[0])
        if sliced is not None:  # to the length of the sequence
            table = constant_of(sliced.args[0]) if isinstance(sliced, relax.Call) else None
        if table is None:
            raise UnsupportedError("it reads a table that is computed")
        if len(table) < self.context:
            raise UnsupportedError(
                f"its table has {len(table)} positions and a context of {self.context} is wanted; compile a "
                "shorter context, or export a longer one"
            )

    def _parameter(self, node: NodeProto, position: int, tensor: _Tensor) -> Any:
        """A tensor of the file where tokens meet it: a parameter, unless it is a single number."""
        var = self.weights[tensor.initializer]
        if var is None:
            return self._array(tensor)
        self.used[var.name] = var
        if tensor.initializer in self.checkpoint.transposed:
            return self._emit(relax.op.permute_dims(var, [1, 0]))  # as the node reads it
        return var

    def _result(self, name: str) -> Any:
        value = self.values.get(name)
        if not isinstance(value, relax.Expr):
            raise CheckpointError(f"{self.file.path}: the result {name} is computed by no node from the tokens")
        return value

    def _check_logits(self, logits: Any) -> None:
        vocabulary = self.checkpoint.config.get("vocab_size")
        if len(shape(logits)) != 3 or static(shape(logits)[2]) != vocabulary:
            raise CheckpointError(
                f"{self.file.path}: the result {self.roles.logits} is {shape(logits)}; logits [1, n, {vocabulary}] are "
                f"needed, over the vocab_size of {self.checkpoint.config_file}"
            )

    def _emit(self, value: Any) -> Any:
        if isinstance(value, relax.Var):
            return value
        normalized = relax.BlockBuilder().normalize(value)
        var = relax.Var(f"lv{len(self.bindings)}", normalized.ty)
        self.bindings[var] = normalized
        return var

    def _bound(self, expression: Any) -> Any:
        return self.bindings.get(expression) if isinstance(expression, relax.Var) else None

    def _fault(self, node: NodeProto, what: str) -> CheckpointError:
        kind = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        return CheckpointError(f"{self.file.path}: node {node.name or node.output[0]} ({kind}): {what}")


def _weight(checkpoint: OnnxCheckpoint, initializer: str) -> Any | None:
    """The parameter that a tensor of the file would be; None for one number, and for what is no weight's type."""
    info = checkpoint.tensors[checkpoint.names[initializer]]
    size = int(np.prod(info.shape, dtype=np.int64))
    if size <= 1 or not (info.dtype == "int8" or _is_float(checkpoint.file.stored[initializer].dtype)):
        return None
    plain_int8 = info.dtype == "int8" and info.name not in checkpoint.quantized
    return relax.Var(info.name, relax.TensorType(list(info.shape), "int8" if plain_int8 else "float32"))


def _is_slice_by_length(node: NodeProto, inputs: list[Any]) -> bool:
    """A table cut to the sequence, which raise-embedding passes by."""
    bounds = [value for value in inputs[1:] if isinstance(value, np.ndarray)]
    return node.op_type == "Slice" and any(value.dtype == object for value in bounds)


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype.name == "bfloat16"


def _attribute(attribute: AttributeProto) -> Any:
    """The value of an attribute; a tensor as an array, floats as float32."""
    value = helper.get_attribute_value(attribute)
    if not isinstance(value, TensorProto):
        return value
    array = numpy_helper.to_array(value)
    return array.astype(np.float32) if _is_float(array.dtype) else array


def _constant(attributes: dict[str, Any]) -> Array:
    """The value of a node Constant."""
    kind, value = next(iter(attributes.items()))
    return value if kind == "value" else np.asarray(value, np.float32 if "float" in kind else np.int64)
