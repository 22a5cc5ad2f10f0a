"""R.vamc.embedding: rows of a table by token id."""

from __future__ import annotations

from typing import Any

from tvm import relax

from vamc_py.dialect.registry import define, dtype_of, shape_of, tensor


def _infer(call: Any) -> Any:
    return tensor([*shape_of(call.args[0]), shape_of(call.args[1])[1]])


def _reference(_builder: Any, call: Any) -> Any:
    ids, table, *scale = call.args
    flat = relax.op.reshape(ids, [-1]) if len(shape_of(ids)) != 1 else ids
    rows = relax.op.astype(relax.op.take(table, flat, axis=0, mode="fast"), "float32")
    if dtype_of(table) == "int8":
        factors = relax.op.take(scale[0], flat, axis=0, mode="fast")
        rows = relax.op.multiply(rows, relax.op.expand_dims(factors, [1]))
    return rows if flat is ids else relax.op.reshape(rows, [*shape_of(ids), shape_of(table)[1]])


@define("embedding", infer_type=_infer, reference=_reference)
def embedding(ids: Any, table: Any, *scale: Any) -> tuple[list[Any], dict[str, Any]]:
    """ids i32 [...], each in [0, V); table [V, H], float or int8 with scale f32 [V] -> f32 [..., H].

    An id out of range is not checked: the runtime does.
    """
    return [ids, table, *scale], {}
