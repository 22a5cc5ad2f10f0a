"""Which part of a model a die has, where several share it: heads, feed-forward columns and ids of the vocabulary.

The split is that of Megatron-LM (Shoeybi et al., 2019): projections into heads and into the feed-forward part by rows,
those back by columns, tables by ids.
"""

from __future__ import annotations

from dataclasses import dataclass

from vamc_py.weights.plan import Rows

TILE = 16
"""Rows and columns that a die's matrix units take at once: what a die has of a width is a multiple of it."""


@dataclass(frozen=True)
class HeadShard:
    """The heads of one rank, as ranges of the model's heads; zeros are heads that pad. Every rank has as many."""

    queries: Rows
    keys: Rows
    """KV heads. Each has ``heads / kv_heads`` of the query heads, in order."""

    @property
    def heads(self) -> int:
        """Query heads of the rank."""
        return len(self.queries)

    @property
    def kv_heads(self) -> int:
        """KV heads of the rank, or copies."""
        return len(self.keys)


def head_shard(heads: int, kv_heads: int, ranks: int, rank: int) -> HeadShard:
    """The heads of a rank: whole KV heads with their query heads, or, where there are more ranks than KV heads, a
    copy of one KV head with a part of its query heads. What does not divide is padded with heads of zeros.
    """
    group = heads // kv_heads
    if kv_heads >= ranks:
        each = -(-kv_heads // ranks)
        keys = _part(0, kv_heads, each, rank)
        return HeadShard(keys.times(group), keys)
    copies = ranks // kv_heads
    each = -(-group // copies)
    head, place = divmod(rank, copies)
    if head >= kv_heads:  # a rank that is left over
        return HeadShard(Rows(heads, heads, each), Rows(kv_heads, kv_heads, 1))
    return HeadShard(_part(head * group, (head + 1) * group, each, place), Rows(head, head + 1))


def column_shard(columns: int, ranks: int, rank: int) -> Rows:
    """A rank's part of a width that the number of ranks divides."""
    return _part(0, columns, columns // ranks, rank)


def vocabulary_shard(vocabulary: int, ranks: int, rank: int) -> Rows:
    """The ids of a rank: a multiple of ``TILE`` on each, the last ones padded with rows of zeros."""
    return _part(0, vocabulary, -(-vocabulary // (TILE * ranks)) * TILE, rank)


def _part(start: int, stop: int, each: int, place: int) -> Rows:
    """``each`` rows of [start, stop), behind those of the places before; zeros where there are no more."""
    first, last = (min(start + at * each, stop) for at in (place, place + 1))
    return Rows(first, last, each - (last - first))


def shard_faults(
    heads: int,
    kv_heads: int,
    intermediate: int,
    ranks: int,
    *,
    align: bool,
    head_dim: int = 1,
    group: int | None = None,
) -> list[str]:
    """Why so many dies cannot share a model of these sizes, a sentence each; none where they can.

    ``align``: ``align_qkv``, heads are padded. ``group``: columns of a quantized weight that share a scale, which must
    stay together in o_proj (``head_dim`` columns a head) and down_proj.
    """
    if ranks == 1:
        return []
    faults = [head_fault(heads, kv_heads, ranks, align=align), width_fault(intermediate, ranks)]
    if faults == [None, None] and group is not None:
        shards = [head_shard(heads, kv_heads, ranks, rank).queries.times(head_dim) for rank in range(ranks)]
        parts = [column_shard(intermediate, ranks, rank) for rank in range(ranks)]
        faults = [
            group_fault("o_proj", shards, heads * head_dim, group),
            group_fault("down_proj", parts, intermediate, group),
        ]
    return [fault for fault in faults if fault is not None]


def head_fault(heads: int, kv_heads: int, ranks: int, *, align: bool) -> str | None:
    """Why the heads do not divide; None where they do, or may be padded."""
    group = heads // kv_heads
    if align or kv_heads % ranks == 0 or (ranks % kv_heads == 0 and group % (ranks // kv_heads) == 0):
        return None
    what = f"{ranks} dies cannot share {heads} query heads with {kv_heads} KV heads evenly"
    if ranks % kv_heads == 0:
        what += f" (the {group} query heads of a KV head do not divide among its {ranks // kv_heads} dies)"
    return f"{what}; choose another model_kwargs.tp, or pad them with heads of zeros by model_kwargs.align_qkv: true"


def width_fault(intermediate: int, ranks: int) -> str | None:
    """Why the feed-forward part does not divide; None where it does."""
    if intermediate % (TILE * ranks) == 0:
        return None
    return (
        f"{ranks} dies cannot share the {intermediate} columns of the feed-forward part: each must have a multiple of "
        f"{TILE}; choose another model_kwargs.tp"
    )


def group_fault(name: str, parts: list[Rows], columns: int, group: int) -> str | None:
    """Why a weight with a scale for each ``group`` columns cannot be cut into these parts, one for each rank; None
    where it can."""
    for part in parts:
        whole_end = part.stop % group == 0 or (part.stop == columns and not part.zeros)
        if part.start % group or part.zeros % group or not whole_end:
            return (
                f"{len(parts)} dies cannot share the {columns} columns of {name}: groups of {group} have one scale, "
                f"and each die would have {len(part)}; choose another model_kwargs.tp, or a smaller quantize.group"
            )
    return None
