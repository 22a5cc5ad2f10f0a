"""R.vamc.select_rows: the strided slice before lm_head, for any wanted rows."""

from __future__ import annotations

from typing import Any

from tvm import relax

from vamc_py.dialect.registry import define, shape_of, tensor


def _infer(call: Any) -> Any:
    x, rows = call.args
    shape = shape_of(x)
    return tensor([*shape[:-2], shape_of(rows)[0], shape[-1]])


def _reference(_builder: Any, call: Any) -> Any:
    x, rows = call.args
    return relax.op.take(x, rows, axis=len(shape_of(x)) - 2, mode="fast")


@define("select_rows", infer_type=_infer, reference=_reference)
def select_rows(x: Any, rows: Any) -> tuple[list[Any], dict[str, Any]]:
    """x f32 [..., n, H], rows i32 [m], each in [0, n) -> f32 [..., m, H]. Rows out of range are not checked."""
    return [x, rows], {}
