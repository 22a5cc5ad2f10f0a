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
    wanted, here = flat, None
    if "first" in call.attrs:
        wanted = relax.op.subtract(flat, relax.const(int(call.attrs["first"]), "int32"))
        last = relax.const(int(shape_of(table)[0]) - 1, "int32")
        nearest = relax.op.minimum(relax.op.maximum(wanted, relax.const(0, "int32")), last)
        here, wanted = relax.op.expand_dims(relax.op.equal(wanted, nearest), [1]), nearest
    rows = relax.op.astype(relax.op.take(table, wanted, axis=0, mode="fast"), "float32")
    if dtype_of(table) == "int8":
        factors = relax.op.take(scale[0], wanted, axis=0, mode="fast")
        rows = relax.op.multiply(rows, relax.op.expand_dims(factors, [1]))
    if here is not None:
        rows = relax.op.where(here, rows, relax.const(0.0, "float32"))
    return rows if flat is ids else relax.op.reshape(rows, [*shape_of(ids), shape_of(table)[1]])


@define("embedding", infer_type=_infer, reference=_reference)
def embedding(ids: Any, table: Any, *scale: Any, first: int | None = None) -> tuple[list[Any], dict[str, Any]]:
    """ids i32 [...], each in [0, V); table [V, H], float or int8 with scale f32 [V] -> f32 [..., H].

    An id out of range is not checked: the runtime does. With ``first`` the table is a slice of a larger one, its first
    row being that of the id ``first``, and ids outside [first, first + V) give zeros. The attribute is left out where
    there is no slice.
    """
    return [ids, table, *scale], {} if first is None else {"first": int(first)}
