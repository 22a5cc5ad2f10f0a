"""A small artifact of the vacc target around a toy model whose logits are easy to predict, yet wrong as soon as a cache
is.

With C[t] = token t + 1 written to the cache at each position, the logits of the token at position p are

    table[token] + sum(C[t] * (t + 1) for t <= p)

Each die holds its columns of the table, and all dies gather the logits.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tokenizers
import tvm
from tvm.script import ir as I
from tvm.script import tirx as T

from vamc_py._link import link_options
from vamc_py._tvm import compile_module
from vamc_py.artifact.manifest import (
    CONFIG_FILE,
    DEVICE_FILE,
    MODULE_FILE,
    PROGRAM_FILE,
    RUNSTREAM_PARAMETERS_FILE,
    TOKENIZER_DIR,
    Limits,
    ModelFacts,
    Runstreams,
    Target,
    VaccManifest,
)
from vamc_py.artifact.write import ArtifactWriter
from vamc_py.runstream.file import write_program
from vamc_py.runstream.program import (
    Access,
    Argument,
    Collective,
    Command,
    DdrTensor,
    Dynamic,
    Gather,
    KernelArgument,
    KernelRecord,
    Launch,
    Program,
    Stage,
    Term,
    Transfer,
    Work,
)
from vamc_py.target.vacc.device import Device

VOCAB = 32
PREFILL = 16
CONTEXT = 48
DEVICE = "tiny"
_CACHE_BYTES = CONTEXT * 4


@I.ir_module(s_tir=True)
class ToyKernels:
    @T.prim_func(s_tir=True)
    def keys_16(token: T.Buffer((16,), "int32"), key: T.Buffer((16,), "float32")) -> None:
        T.func_attr({"global_symbol": "keys_16"})
        for i in range(16):
            key[i] = T.cast(token[i] + 1, "float32")

    @T.prim_func(s_tir=True)
    def keys_1(token: T.Buffer((1,), "int32"), key: T.Buffer((1,), "float32")) -> None:
        T.func_attr({"global_symbol": "keys_1"})
        key[0] = T.cast(token[0] + 1, "float32")

    @T.prim_func(s_tir=True)
    def score_32(
        key: T.Buffer((48,), "float32"),
        row: T.Buffer((32,), "float32"),
        logits: T.Buffer((32,), "float32"),
        position: T.int32,
        last: T.int32,
    ) -> None:
        T.func_attr({"global_symbol": "score_32"})
        for v in T.parallel(32):
            logits[v] = row[v]
            for t in range(position + last + 1):
                logits[v] = logits[v] + key[t] * T.cast(t + 1, "float32")

    @T.prim_func(s_tir=True)
    def score_16(
        key: T.Buffer((48,), "float32"),
        row: T.Buffer((16,), "float32"),
        logits: T.Buffer((16,), "float32"),
        position: T.int32,
        last: T.int32,
    ) -> None:
        T.func_attr({"global_symbol": "score_16"})
        for v in T.parallel(16):
            logits[v] = row[v]
            for t in range(position + last + 1):
                logits[v] = logits[v] + key[t] * T.cast(t + 1, "float32")


@functools.cache
def kernels() -> bytes:
    """mod.so of the toy model, the same for all stages and ranks; compiled once a process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / MODULE_FILE
        compile_module(ToyKernels, tvm.target.Target({"kind": "llvm"})).export_library(str(path), **link_options())
        return path.read_bytes()


@functools.cache
def table() -> npt.NDArray[np.float32]:
    """[vocabulary, vocabulary] of small whole numbers: row i for token i."""
    return np.random.default_rng(1).integers(-99, 100, (VOCAB, VOCAB)).astype(np.float32)


def reference(tokens: Sequence[int]) -> npt.NDArray[np.float32]:
    """The logits [vocabulary] after a text; exact."""
    total = sum((token + 1) * (t + 1) for t, token in enumerate(tokens))
    return table()[tokens[-1]] + np.float32(total)


def program(stage: Stage, rank: int, ranks: int) -> Program:
    """The runstream of a die: 1 or 2 ranks."""
    tokens = PREFILL if stage == "prefill" else 1
    own = VOCAB // ranks * 4  # bytes of a row of the die's table
    key_bytes, token_bytes = tokens * 4, tokens * 4
    ddr = _Layout()
    ddr.add("table", "parameter", "float32", (VOCAB, VOCAB // ranks))
    ddr.add("cache", "cache", "float32", (CONTEXT,))
    ddr.add("tokens", "input", "int32", (tokens,))
    ddr.add("logits", "output", "float32", (VOCAB,))
    offset = {tensor.name: tensor.offset for tensor in ddr.tensors}
    # SSRAM: tokens, keys, the cache, a row, the die's logits, all logits.
    starts = np.cumsum([0, 64, 64, _CACHE_BYTES, 128, 128, 128]).tolist()
    token_at, key_at, cache_at, row_at, own_at, all_at, end = starts
    tokens_in = Access(memory="ssram", offset=token_at, size=token_bytes)
    keys = Access(memory="ssram", offset=key_at, size=key_bytes)
    cache = Access(memory="ssram", offset=cache_at, size=_CACHE_BYTES)
    row = Access(memory="ssram", offset=row_at, size=own)
    part = Access(memory="ssram", offset=own_at, size=own)
    whole = part if ranks == 1 else Access(memory="ssram", offset=all_at, size=VOCAB * 4)
    here = Dynamic(register_name="position", terms=(Term(factor=4),))
    wanted = Dynamic(register_name="row", terms=(Term(factor=4),))
    score = f"score_{VOCAB // ranks}"
    commands: list[Command] = [
        Transfer(
            engine="idma", source=Access(memory="ddr", offset=offset["tokens"], size=token_bytes), target=tokens_in
        ),
        Launch(
            engine="vector",
            kernel=f"keys_{tokens}",
            arguments=(Argument(access=tokens_in, mode="read"), Argument(access=keys, mode="write")),
            waits=(0,),
        ),
        Transfer(
            engine="odma",
            source=keys,
            target=Access(memory="ddr", offset=offset["cache"], size=key_bytes, at=here),
            waits=(1,),
        ),
        Transfer(
            engine="idma",
            source=Access(memory="ddr", offset=offset["cache"], size=_CACHE_BYTES),
            target=cache,
            waits=(2,),
        ),
        Gather(
            index=Access(memory="ssram", offset=token_at, size=4, at=wanted),
            table=Access(memory="ddr", offset=offset["table"], size=own),
            entry=(Term(factor=own),),
            first=0,
            entries=VOCAB,
            target=row,
            waits=(0,),
        ),
        Launch(
            engine="vector",
            kernel=score,
            arguments=(
                Argument(access=cache, mode="read"),
                Argument(access=row, mode="read"),
                Argument(access=part, mode="write"),
            ),
            scalars=("position", "row"),
            waits=(3, 4),
        ),
    ]
    if ranks > 1:
        commands.append(Collective(kind="all_gather", dtype="float32", source=part, target=whole, waits=(5,)))
    output = Access(memory="ddr", offset=offset["logits"], size=VOCAB * 4)
    commands.append(Transfer(engine="odma", source=whole, target=output, waits=(len(commands) - 1,)))
    return Program(
        device=DEVICE,
        stage=stage,
        tokens=tokens,
        context=CONTEXT,
        rank=rank,
        ranks=ranks,
        registers={"position": 1 if stage == "prefill" else CONTEXT, "row": tokens},
        ddr_bytes=ddr.end,
        ssram_bytes=end,
        tensors=tuple(ddr.tensors),
        kernels={
            f"keys_{tokens}": _kernel(("token", "int32", tokens), ("key", "float32", tokens)),
            score: _kernel(
                ("key", "float32", CONTEXT),
                ("row", "float32", VOCAB // ranks),
                ("logits", "float32", VOCAB // ranks),
                scalars=2,
            ),
        },
        commands=tuple(commands),
    )


class _Layout:
    """Tensors in DDR one behind the other."""

    def __init__(self) -> None:
        self.tensors: list[DdrTensor] = []
        self.end = 0

    def add(self, name: str, role: str, dtype: str, shape: tuple[int, ...]) -> None:
        size = int(np.prod(shape)) * 4
        fields = {"name": name, "role": role, "dtype": dtype, "shape": shape, "offset": self.end, "size": size}
        self.tensors.append(DdrTensor.model_validate(fields))
        self.end += -(-size // 64) * 64


def _kernel(*arguments: tuple[str, str, int], scalars: int = 0) -> KernelRecord:
    elements = arguments[-1][2]
    return KernelRecord(
        engine="vector",
        arguments=tuple(KernelArgument(name=name, dtype=dtype, elements=count) for name, dtype, count in arguments),
        scalars=scalars,
        work=((Work(intrinsic="vector", sizes=(elements, 2), count=1),), ()),
    )


def write_vacc_artifact(folder: Path, ranks: int = 1) -> VaccManifest:
    """Write the toy model for so many dies to ``folder``, as the compiler would."""
    limits = Limits(prefill=PREFILL, context=CONTEXT)
    streams = Runstreams.named(DEVICE, limits, ranks)
    manifest = VaccManifest(
        name="toy",
        target=Target(kind="vacc", mcpu="x86-64-v3", features=("avx2",), dtype="fp16"),
        model=ModelFacts(
            architecture="toy", layers=1, hidden_size=VOCAB, intermediate_size=VOCAB, heads=1, kv_heads=1, head_dim=1,
            vocab_size=VOCAB, tied_embedding=True, max_positions=CONTEXT,
        ),
        limits=limits,
        files={},
        built_with={"apache-tvm": tvm.__version__},
        source={},
        runstreams=streams,
    )  # fmt: skip
    with ArtifactWriter(folder) as writer:
        writer.path(CONFIG_FILE).write_text("model:\n  name: toy\n")
        writer.path(DEVICE_FILE).write_text(Device.named(DEVICE).json_text())
        _write_tokenizer(writer.directory(TOKENIZER_DIR))
        for rank, (prefill, decode) in enumerate(zip(streams.prefill, streams.decode, strict=True)):
            for name, stage in ((prefill, "prefill"), (decode, "decode")):
                path = writer.directory(name)
                (path / MODULE_FILE).write_bytes(kernels())
                write_program(path / PROGRAM_FILE, program(stage, rank, ranks))  # type: ignore[arg-type]
            columns = np.split(table(), ranks, axis=1)[rank]
            writer.path(f"{prefill}/{RUNSTREAM_PARAMETERS_FILE}").write_bytes(columns.tobytes())
            writer.link(f"{prefill}/{RUNSTREAM_PARAMETERS_FILE}", f"{decode}/{RUNSTREAM_PARAMETERS_FILE}")
        writer.finish(manifest)
    return manifest


def _write_tokenizer(folder: Path) -> None:
    """Words w0 to w30 by number, and one special token, <end>."""
    words = {f"w{index}": index for index in range(VOCAB - 1)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    for name in ("tokenizer_config.json", "generation_config.json"):
        (folder / name).write_text("{}")
