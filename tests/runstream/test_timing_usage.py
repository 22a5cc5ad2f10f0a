"""What the engines did with their time, by hand; and the trace and the summary of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.timed_programs import (
    QUIET,
    all_reduce,
    launch,
    load,
    matrix_work,
    mma,
    program,
    random_commands,
    store,
    vector_work,
)

from vamc_py.errors import UserError
from vamc_py.runstream.program import ENGINES, Command, Program
from vamc_py.runstream.summary import ASSUMPTIONS, summary
from vamc_py.runstream.timing import simulate
from vamc_py.runstream.trace import write_trace
from vamc_py.runstream.usage import is_linear, usage, without_layer
from vamc_py.target.vacc.device import STATEMENT

NS = 1e-9
PROJECTION, SCORES = "layers.0.self_attn.q_proj", "layers.0.self_attn"
KERNELS = {"product": matrix_work(mma(64, 64, 80)), "norm": vector_work(1600)}


def one_layer(rank: int = 0, ranks: int = 1) -> Program:
    """Two projections, the second one behind a long load; scores behind a norm. ``MM`` is the time of a product."""
    commands: list[Command] = [
        load(640, label=PROJECTION),
        launch("norm", label="layers.0.input_layernorm", engine="vector"),
        launch("product", (0, 1), label=PROJECTION),
        load(20032, label="layers.0.mlp.down_proj"),
        launch("product", (3,), label="layers.0.mlp.down_proj"),
        launch("norm", (4,), label=SCORES, engine="vector"),
        launch("product", (5,), label=SCORES),
        store(100, (6,), label=SCORES),
    ]
    return program(*commands, kernels=KERNELS, rank=rank, ranks=ranks)


LOADED = 641 + 20033  # ns: when the second load is through
MM = 1 + 4 * 4 * 5 * 8192 / 50  # ns: tiles on a core of 50 GFLOPS; their operands are read in less


def test_busy_and_idle_add_up() -> None:
    timeline = simulate([one_layer()], QUIET)
    found = usage(timeline, 0)
    seconds = timeline.seconds / NS
    assert seconds == pytest.approx(LOADED + MM + 1001 + MM + 129)
    for engine in found.engines.values():
        assert (engine.busy_s + sum(engine.idle_s.values())) / NS == pytest.approx(seconds)
        assert engine.share == pytest.approx(engine.busy_s / timeline.seconds)
    assert found.engines["wddma"].busy_s / NS == pytest.approx(LOADED)
    assert found.engines["matrix"].commands == 3
    assert found.engines["idma"].idle_s == {"nothing left": pytest.approx(timeline.seconds)}


def test_what_the_matrix_units_wait_for() -> None:
    found = usage(simulate([one_layer()], QUIET), 0)
    matrix = found.engines["matrix"].idle_s
    assert matrix["wddma"] / NS == pytest.approx(LOADED - 1001 - MM)
    assert matrix["vector"] / NS == pytest.approx(1001 + 1001)
    assert matrix["nothing left"] / NS == pytest.approx(129)
    longest = next(wait for wait in found.waits if wait.engine == "matrix")
    assert (longest.label, longest.cause, longest.cause_label, longest.times) == (
        "layers.*.mlp.down_proj",
        "wddma",
        "layers.*.mlp.down_proj",
        1,
    )


def test_shares_of_the_peaks() -> None:
    """The second product waits for its own weights; the first one for a norm, which is no linear layer's."""
    timeline = simulate([one_layer()], QUIET)
    found = usage(timeline, 0)
    operations = 2 * 64 * 64 * 80 * 2
    ideal = operations / QUIET.fp16_flops
    assert found.matrix.operations == {"mma_f16": 3 * operations}
    assert found.matrix_share == pytest.approx(3 * ideal / timeline.seconds)
    assert found.linear.operations == {"mma_f16": 2 * operations}
    assert found.linear.active_s / NS == pytest.approx(2 * MM)
    assert found.linear.stalled_s / NS == pytest.approx(LOADED - 1001 - MM)
    assert found.linear.share == pytest.approx(2 * ideal / ((LOADED - 1001 + MM) * NS))
    assert found.linear.share_active == pytest.approx(ideal / (MM * NS))
    assert found.ddr_bytes == 640 + 20032 + 100
    assert found.ddr_burst_bytes == 640 + 20032 + 128
    assert found.ddr_share == pytest.approx(20772 / QUIET.ddr_bytes_s / timeline.seconds)


def test_padding_is_no_work() -> None:
    timeline = simulate([program(launch("m"), kernels={"m": matrix_work(mma(1, 16, 16))})], QUIET)
    assert usage(timeline, 0).matrix.operations == {"mma_f16": 2 * 2 * 16 * 16}
    assert usage(timeline, 0).matrix.share == pytest.approx(2 * 2 * 256 / QUIET.fp16_flops / (NS + 163.84 * NS))


def test_other_labels_may_be_the_linear_ones() -> None:
    found = usage(simulate([one_layer()], QUIET), 0, linear=lambda label: label == SCORES)
    assert found.linear.active_s / NS == pytest.approx(MM)
    assert found.linear.stalled_s / NS == pytest.approx(1001)


def test_communication_beside_other_work_is_not_exposed() -> None:
    """An exchange of 2000 bytes takes 4002 ns; 641 of them a load runs beside it."""
    programs = [program(all_reduce(2000), load(640), rank=rank, ranks=2) for rank in range(2)]
    timeline = simulate(programs, QUIET)
    found = usage(timeline, 1)
    assert timeline.seconds / NS == pytest.approx(4002)
    assert found.communication_share == pytest.approx(1)
    assert found.exposed_share == pytest.approx((4002 - 641) / 4002)


def test_waiting_for_other_dies_is_named() -> None:
    kernels = {"short": vector_work(160), "long": vector_work(1600)}
    programs = [
        program(launch(name, engine="vector"), all_reduce(600, (0,)), rank=rank, ranks=2, kernels=kernels)
        for rank, name in enumerate(kernels)
    ]
    timeline = simulate(programs, QUIET)
    assert usage(timeline, 0).engines["vccl"].idle_s == {
        "other dies": pytest.approx(900 * NS),
        "vector": pytest.approx(101 * NS),
    }
    assert usage(timeline, 1).engines["vccl"].idle_s == {"vector": pytest.approx(1001 * NS)}


@settings(deadline=None, max_examples=40)
@given(random_commands(), st.lists(st.integers(1, 4000), min_size=1, max_size=3))
def test_all_of_the_time_is_accounted_for(commands: list[Command], work: list[int]) -> None:
    """Whatever the programs are, and where the kernels of the dies take different times."""
    programs = [
        program(*commands, kernels={"work": vector_work(size)}, rank=rank, ranks=len(work))
        for rank, size in enumerate(work)
    ]
    timeline = simulate(programs, QUIET)
    for rank in range(len(work)):
        found = usage(timeline, rank)
        for engine in found.engines.values():
            assert engine.busy_s + sum(engine.idle_s.values()) == pytest.approx(timeline.seconds)
        assert 0 <= found.exposed_share <= found.communication_share + 1e-12 <= 1 + 1e-9
        assert found.ddr_bytes <= found.ddr_burst_bytes
        assert found.ddr_share <= 1 + 1e-9


@pytest.mark.parametrize(
    ("label", "linear"),
    [
        ("model.layers.0.mlp.down_proj", True),
        ("layers.3.self_attn.q_proj.weight", True),
        ("model.layers.0.self_attn.q_proj+k_proj+v_proj", True),
        ("lm_head", True),
        ("layers.0.self_attn", False),
        ("layers.0.self_attn.qk_projection", False),
        ("embed_tokens", False),
        ("", False),
    ],
)
def test_labels_of_linear_layers(label: str, linear: bool) -> None:
    assert is_linear(label) is linear


def test_the_layer_of_a_label() -> None:
    assert without_layer("model.layers.12.mlp.up_proj") == "model.layers.*.mlp.up_proj"
    assert without_layer("int8_2.w4") == "int8_2.w4"


def test_a_trace_has_every_command_once(tmp_path: Path) -> None:
    prefill = [one_layer(rank, 2) for rank in range(2)]
    decode = [one.model_copy(update={"stage": "decode"}) for one in prefill]
    timelines = [simulate(prefill, QUIET), simulate(decode, QUIET)]
    path = tmp_path / "trace.json"
    assert write_trace(path, timelines) == 4 * 8
    trace = json.loads(path.read_text())
    assert trace["otherData"] == {"statement": STATEMENT, "device": "tiny"}
    events = trace["traceEvents"]
    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert sorted(names.values()) == [
        f"{stage} rank {rank} (estimate)" for stage in ("decode", "prefill") for rank in range(2)
    ]
    threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert set(threads.values()) == set(ENGINES)
    commands = [event for event in events if event["ph"] == "X"]
    assert sorted((event["pid"], event["args"]["number"]) for event in commands) == [
        (pid, number) for pid in sorted(names) for number in range(8)
    ]
    for event in commands:
        number, die = event["args"]["number"], timelines[0].dies[0]
        command = prefill[0].commands[number]
        assert threads[event["pid"], event["tid"]] == command.engine
        assert (event["name"], event["args"]["label"]) == (command.label, command.label)
        assert event["ts"] == pytest.approx(die.start[number] * 1e6, abs=1e-6)
        assert event["dur"] == pytest.approx((die.end[number] - die.start[number]) * 1e6, abs=1e-6)
    product = next(event for event in commands if event["args"]["number"] == 4)
    assert product["args"]["operations"] == {"mma_f16": 4 * 64 * 64 * 80}
    assert product["args"]["waited_for"] == 3
    assert next(e for e in commands if e["args"]["number"] == 3)["args"]["ddr_bytes"] == 20032


def test_a_trace_that_cannot_be_written_is_the_users_fault(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trace\.json: cannot be written: No such file or directory"):
        write_trace(tmp_path / "absent" / "trace.json", [simulate([one_layer()], QUIET)])


def test_the_summary_says_what_it_is() -> None:
    programs = [one_layer(rank, 2) for rank in range(2)]
    decode = one_layer().model_copy(update={"stage": "decode", "tokens": 1})
    timelines = [simulate(programs, QUIET), simulate([decode], QUIET)]
    result = json.loads(json.dumps(summary(timelines)))
    assert (result["statement"], result["assumptions"]) == (STATEMENT, list(ASSUMPTIONS))
    assert result["device"]["figures"]["ddr_bytes_s"] == {
        "key": "ddr_bytes_s",
        "value": 1e9,
        "status": "assumed",
        "source": "Made up for tests.",
    }
    prefill, decode_stage = result["stages"]["prefill"], result["stages"]["decode"]
    assert prefill["tokens_per_s"] == pytest.approx(16 / timelines[0].seconds)
    assert decode_stage["tokens_per_s"] == pytest.approx(1 / timelines[1].seconds)
    assert [die["ranks"] for die in prefill["dies"]] == [[0, 1]]
    assert prefill["dies"][0]["linear"]["share_of_peak"] == pytest.approx(usage(timelines[0], 0).linear.share)
