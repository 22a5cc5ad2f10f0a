"""Which heads, columns and ids a die has: each somewhere, query heads beside their own KV head, all dies as much."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vamc_py.pipeline.shards import column_shard, group_fault, head_fault, head_shard, shard_faults, vocabulary_shard
from vamc_py.weights.plan import Rows


def heads_of(rows: Rows) -> list[int | None]:
    """The heads in order; None for one that pads."""
    return [*range(rows.start, rows.stop), *[None] * rows.zeros]


@given(kv_heads=st.integers(1, 12), group=st.integers(1, 9), ranks=st.integers(1, 20))
def test_every_query_head_is_on_one_rank_beside_its_own_kv_head(kv_heads: int, group: int, ranks: int) -> None:
    heads = kv_heads * group
    shards = [head_shard(heads, kv_heads, ranks, rank) for rank in range(ranks)]
    assert len({(shard.heads, shard.kv_heads) for shard in shards}) == 1
    found = []
    for shard in shards:
        queries, keys = heads_of(shard.queries), heads_of(shard.keys)
        assert len(queries) % len(keys) == 0
        for place, query in enumerate(queries):
            if query is not None:
                # As qkv_attention reads them: a head h of q uses head h // (heads / kv_heads) of k and v.
                assert keys[place // (len(queries) // len(keys))] == query // group
                found.append(query)
    assert found == list(range(heads))


@given(kv_heads=st.integers(1, 12), group=st.integers(1, 9), ranks=st.integers(1, 20))
def test_heads_are_padded_only_where_it_is_a_fault_without(kv_heads: int, group: int, ranks: int) -> None:
    shards = [head_shard(kv_heads * group, kv_heads, ranks, rank) for rank in range(ranks)]
    padded = any(shard.queries.zeros or shard.keys.zeros for shard in shards)
    assert (head_fault(kv_heads * group, kv_heads, ranks, align=False) is not None) == padded
    assert head_fault(kv_heads * group, kv_heads, ranks, align=True) is None


@pytest.mark.parametrize(
    ("heads", "kv_heads", "ranks", "rank", "queries", "keys"),
    [
        (32, 8, 4, 3, Rows(24, 32), Rows(6, 8)),
        (9, 3, 3, 1, Rows(3, 6), Rows(1, 2)),
        (16, 2, 8, 5, Rows(10, 12), Rows(1, 2)),  # copies of KV heads
        (14, 2, 4, 0, Rows(0, 4), Rows(0, 1)),  # 7 query heads over two dies
        (14, 2, 4, 1, Rows(4, 7, 1), Rows(0, 1)),
        (14, 2, 8, 3, Rows(6, 7, 1), Rows(0, 1)),
        (9, 3, 2, 1, Rows(6, 9, 3), Rows(2, 3, 1)),  # KV heads padded to 4
        (4, 2, 3, 2, Rows(4, 4, 2), Rows(2, 2, 1)),  # a die without work
    ],
)
def test_heads_of_known_models(heads: int, kv_heads: int, ranks: int, rank: int, queries: Rows, keys: Rows) -> None:
    shard = head_shard(heads, kv_heads, ranks, rank)
    assert (shard.queries, shard.keys) == (queries, keys)


@given(vocabulary=st.integers(1, 400), ranks=st.integers(1, 9))
def test_ids_are_padded_to_multiples_of_the_tile(vocabulary: int, ranks: int) -> None:
    parts = [vocabulary_shard(vocabulary, ranks, rank) for rank in range(ranks)]
    [each] = {len(part) for part in parts}
    assert each % 16 == 0
    assert (each - 16) * ranks < vocabulary <= each * ranks
    assert [one for part in parts for one in heads_of(part) if one is not None] == list(range(vocabulary))
    assert all(part.start == rank * each for rank, part in enumerate(parts) if part.start < vocabulary)


def test_columns_of_a_rank() -> None:
    assert [column_shard(96, 3, rank) for rank in range(3)] == [Rows(0, 32), Rows(32, 64), Rows(64, 96)]


def test_faults_name_the_numbers_and_the_way_out() -> None:
    assert shard_faults(14, 2, 4864, 2, align=False) == []
    assert shard_faults(14, 2, 100, 1, align=False, group=7) == []
    [heads] = shard_faults(14, 2, 4864, 4, align=False)
    assert heads == (
        "4 dies cannot share 14 query heads with 2 KV heads evenly (the 7 query heads of a KV head do not divide among "
        "its 2 dies); choose another model_kwargs.tp, or pad them with heads of zeros by model_kwargs.align_qkv: true"
    )
    [uneven] = shard_faults(32, 8, 4864, 19, align=False)
    assert uneven.startswith("19 dies cannot share 32 query heads with 8 KV heads evenly; choose")
    assert shard_faults(14, 2, 4864, 4, align=True) == []
    [width] = shard_faults(14, 2, 4864, 3, align=True)
    assert width == (
        "3 dies cannot share the 4864 columns of the feed-forward part: each must have a multiple of 16; choose "
        "another model_kwargs.tp"
    )
    assert len(shard_faults(14, 2, 4864, 3, align=False)) == 2


def test_groups_of_columns_stay_together() -> None:
    assert shard_faults(16, 8, 512, 4, align=False, head_dim=64, group=128) == []
    [down] = shard_faults(16, 8, 1088, 4, align=False, head_dim=64, group=128)
    assert down == (
        "4 dies cannot share the 1088 columns of down_proj: groups of 128 have one scale, and each die would have 272; "
        "choose another model_kwargs.tp, or a smaller quantize.group"
    )
    [back] = shard_faults(8, 8, 512, 4, align=False, head_dim=32, group=128)
    assert "the 256 columns of o_proj" in back


@pytest.mark.parametrize(
    ("parts", "fits"),
    [
        ([Rows(0, 32), Rows(32, 40)], True),  # the last group of a row is shorter
        ([Rows(0, 32), Rows(32, 40, 24)], False),  # but nothing comes behind it
        ([Rows(0, 16), Rows(16, 40)], False),
        ([Rows(0, 32, 32), Rows(32, 32, 64)], True),
        ([Rows(0, 32, 16)], False),
    ],
)
def test_where_columns_may_be_cut(parts: list[Rows], fits: bool) -> None:
    assert (group_fault("the weight", parts, 40, 32) is None) == fits
