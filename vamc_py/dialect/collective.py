"""R.vamc.all_reduce and R.vamc.all_gather: what the dies that share a model say to each other.

``ranks`` dies run programs of the same form, each with its own share of the weights, and meet at the same collectives
in the same order. One die alone cannot compute a collective, so there is a reference for one rank only.
"""

from __future__ import annotations

from typing import Any

from tvm import relax

from vamc_py.dialect.registry import define, dtype_of, shape_of, tensor


def _alone(call: Any, name: str) -> None:
    ranks = int(call.attrs["ranks"])
    if ranks != 1:
        raise ValueError(f"R.vamc.{name} of {ranks} ranks runs on a device with {ranks} dies only: it has no reference")


def _reduce_reference(_builder: Any, call: Any) -> Any:
    _alone(call, "all_reduce")
    x, *residual = call.args
    return relax.op.add(x, residual[0]) if residual else x


@define("all_reduce", infer_type=lambda call: call.args[0].ty, reference=_reduce_reference)
def all_reduce(x: Any, *residual: Any, ranks: int) -> tuple[list[Any], dict[str, Any]]:
    """The sum of all ranks' x, in the order of ranks [+ residual, once, which is the same on every rank].

    x f32 [...]; residual f32 of the same shape -> f32 like x, the same on every rank.
    ValueError for fewer ranks than one, or more than one residual.
    """
    _check_ranks(ranks)
    if len(residual) > 1:
        raise ValueError(f"R.vamc.all_reduce adds one residual, not {len(residual)}")
    return [x, *residual], {"ranks": int(ranks)}


def _gathered(call: Any) -> Any:
    (x,) = call.args
    *rows, width = shape_of(x)
    every = int(width) * int(call.attrs["ranks"])
    columns = int(call.attrs.get("columns", every))
    if not 1 <= columns <= every:
        raise ValueError(f"R.vamc.all_gather of {every} columns gives no {columns}")
    return tensor([*rows, columns], dtype_of(x))


def _gather_reference(_builder: Any, call: Any) -> Any:
    _alone(call, "all_gather")
    (x,) = call.args
    if "columns" not in call.attrs:
        return x
    axis = len(shape_of(x)) - 1
    return relax.op.strided_slice(x, axes=[axis], begin=[0], end=[int(call.attrs["columns"])], assume_inbound=True)


@define("all_gather", infer_type=_gathered, reference=_gather_reference)
def all_gather(x: Any, *, ranks: int, columns: int | None = None) -> tuple[list[Any], dict[str, Any]]:
    """The ranks' x side by side along the last axis, in the order of ranks.

    x f32 [m, C] -> f32 [m, C * ranks], the same on every rank. ``columns``: the first so many of these alone, where
    what the last ranks have is padding -> f32 [m, columns]. The attribute is left out where there is none.
    ValueError for fewer ranks than one, or more columns than there are.
    """
    _check_ranks(ranks)
    return [x], {"ranks": int(ranks), **({} if columns is None else {"columns": int(columns)})}


def _check_ranks(ranks: int) -> None:
    if ranks < 1:
        raise ValueError(f"a collective has one rank or more, not {ranks}")
