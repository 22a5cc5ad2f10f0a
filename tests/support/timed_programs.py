"""Small programs of the vacc device model, made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hypothesis import strategies as st

from vamc_py.runstream.program import (
    Access,
    Argument,
    Collective,
    Command,
    DdrTensor,
    DmaEngine,
    Gather,
    KernelEngine,
    KernelRecord,
    Launch,
    Program,
    Stage,
    Term,
    Transfer,
    Work,
)
from vamc_py.target.vacc.device import Device

QUIET = Device.named(
    "tiny", {"dma_latency_s": 1e-9, "launch_s": 1e-9, "link_latency_s": 1e-9, "far_link_latency_s": 1e-9}
)
"""1 GB/s of DDR (the engine cdma has half of it), 100 MHz, two cores with 16 lanes, hardly any latency."""


def ddr(size: int, rows: int = 1, stride: int = 0, offset: int = 0) -> Access:
    return Access(memory="ddr", offset=offset, size=size, rows=rows, stride=stride)


def ssram(size: int, offset: int = 0) -> Access:
    return Access(memory="ssram", offset=offset, size=size)


def load(size: int, engine: DmaEngine = "wddma", waits: Sequence[int] = (), label: str = "", rows: int = 1) -> Transfer:
    """From DDR, rows of ``size`` bytes 1024 bytes apart."""
    source = ddr(size, rows, 1024 if rows > 1 else 0)
    return Transfer(engine=engine, source=source, target=ssram(size * rows), waits=tuple(waits), label=label)


def store(size: int, waits: Sequence[int] = (), label: str = "") -> Transfer:
    return Transfer(engine="odma", source=ssram(size), target=ddr(size), waits=tuple(waits), label=label)


def launch(
    kernel: str, waits: Sequence[int] = (), label: str = "", engine: KernelEngine = "matrix", offset: int = 0
) -> Launch:
    argument = Argument(access=ssram(64, offset), mode="update")
    return Launch(engine=engine, kernel=kernel, arguments=(argument,), waits=tuple(waits), label=label)


def all_reduce(size: int, waits: Sequence[int] = (), label: str = "") -> Collective:
    access = ssram(size)
    return Collective(kind="all_reduce", dtype="float32", source=access, target=access, waits=tuple(waits), label=label)


def gather(indices: int, entry: int, waits: Sequence[int] = (), rows: int = 1) -> Gather:
    return Gather(
        index=ssram(4 * indices),
        table=ddr(entry, rows, 1024 if rows > 1 else 0),
        entry=(Term(factor=entry),),
        first=0,
        entries=100,
        target=ssram(indices * entry * rows),
        waits=tuple(waits),
        label="embed_tokens",
    )


def vector_work(elements: int, instructions: int = 1, cores: int = 2) -> KernelRecord:
    """On ``QUIET``: elements * instructions / 1.6e9 seconds."""
    work = Work(intrinsic="vector", sizes=(elements, instructions), count=1)
    return KernelRecord(engine="vector", arguments=(), work=tuple((work,) for _ in range(cores)))


def matrix_work(*work: Work, cores: int = 2) -> KernelRecord:
    return KernelRecord(engine="matrix", arguments=(), work=tuple(work for _ in range(cores)))


def mma(m: int, n: int, k: int, count: int = 1) -> Work:
    return Work(intrinsic="mma_f16", sizes=(m, n, k), count=count)


def program(
    *commands: Command,
    kernels: dict[str, KernelRecord] | None = None,
    rank: int = 0,
    ranks: int = 1,
    stage: Stage = "prefill",
    tokens: int = 16,
    device: str = "tiny",
) -> Program:
    weight = DdrTensor(name="lm_head.weight", role="parameter", dtype="int8", shape=(64, 64), offset=0, size=4096)
    return Program(
        device=device,
        stage=stage,
        tokens=tokens,
        context=64,
        rank=rank,
        ranks=ranks,
        registers={"position": 64, "row": tokens},
        ddr_bytes=65536,
        ssram_bytes=4096,
        tensors=(weight,),
        kernels=kernels or {},
        commands=commands,
    )


@st.composite
def random_commands(draw: st.DrawFn) -> list[Command]:
    """Commands that wait for earlier ones; launches are of the kernel ``work``."""
    commands: list[Command] = []
    for number in range(draw(st.integers(1, 25))):
        waits = draw(st.lists(st.integers(0, number - 1), max_size=2, unique=True)) if number else []
        kind = draw(st.sampled_from(["load", "gather", "store", "vector", "reduce"]))
        if kind == "load":
            engine = draw(st.sampled_from(["idma", "odma", "wddma", "cdma"]))
            rows, size = draw(st.integers(1, 5)), draw(st.integers(1, 900))
            commands.append(load(size, engine, waits, rows=rows))
        elif kind == "gather":
            commands.append(gather(draw(st.integers(1, 9)), draw(st.integers(1, 99)), waits))
        elif kind == "store":
            commands.append(store(draw(st.integers(1, 900)), waits))
        elif kind == "vector":
            commands.append(launch("work", waits, engine="vector"))
        else:
            commands.append(all_reduce(draw(st.integers(1, 99)), waits))
    return commands


def write_artifact(folder: Path, programs: Sequence[Program], device: Device) -> None:
    """The files that the timing reads of an artifact of vacc."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "device.json").write_text(device.json_text())
    for one in programs:
        length = one.tokens if one.stage == "prefill" else one.context
        place = folder / f"{one.stage}_{length}_rank{one.rank}"
        place.mkdir()
        (place / "mod.json").write_text(one.model_dump_json())
