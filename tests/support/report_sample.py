"""A report of a small made-up compile, for tests of the page that shows it."""

from __future__ import annotations

from vamc_py.inspect.report_model import (
    ConfigValue,
    DiffHunk,
    DiffLine,
    Fact,
    FunctionChange,
    MachineLimits,
    MemoryPlan,
    Node,
    Report,
    Roofline,
    RooflinePoint,
    Step,
    Storage,
)

HIDDEN = 64
PREFILL = 16
FOREIGN_PASS = "clamp-logits"
LONG_PASS = "simplify"  # its difference is longer than what the page shows at once
LONG_LINES = 400
LIMITS = MachineLimits(
    machine="test machine, 2 threads", bandwidth=50e9, int8_peak=900e9, float_peak=120e9, bf16_peak=450e9
)


def sample_report(layers: int = 2, *, suffix: str = "", measured: bool = True) -> Report:
    """Nine nodes a layer, six in none, one of them without a kernel; ``suffix`` stands behind each name and text."""
    nodes = _nodes(layers, suffix)
    limits = LIMITS if measured else None
    return Report(
        title=f"sample{suffix}",
        facts=(
            Fact(name="Target", value=f"llvm znver4{suffix}"),
            Fact(name=f"Weights{suffix}", value="int8"),
            Fact(name="Layers", value=str(layers)),
        ),
        steps=_steps(layers, suffix),
        nodes=nodes,
        layers=layers,
        memory=_memory(nodes, suffix),
        limits=limits,
        rooflines=tuple(_roofline(nodes, step, suffix, measured) for step in ("decode", "prefill")),
        config=(
            ConfigValue(key="name", value=f"sample{suffix}", origin=f"model.yaml:1:7{suffix}"),
            ConfigValue(key="frontend.shape.input_ids", value=[[16], [64]], origin="model.yaml:4:16"),
            ConfigValue(key="backend.dtype", value="int8", origin="--set backend.dtype=int8"),
            ConfigValue(key="frontend.model_kwargs.trust_remote_code", value=False, origin="default"),
        ),
        notes=(f"1 x less_equal runs on TVM's own loops{suffix}",),
    )


def _nodes(layers: int, suffix: str) -> tuple[Node, ...]:
    nodes = [
        _node("tokens_embedded", "embedding", None, ("tokens",), suffix, parameters=("model.embed_tokens.weight",)),
        _node("angles", "rotary_angles", None, ("positions",), suffix),
        _node("mask", "less_equal", None, ("positions",), suffix, kernel=False),
    ]
    stream = "tokens_embedded"
    for layer in range(layers):
        nodes += _layer(layer, stream, suffix)
        stream = f"down{layer}"
    nodes += [
        _node("last_token", "select_rows", None, (stream, "rows"), suffix),
        _node("last_norm", "rms_norm", None, ("last_token",), suffix, parameters=("model.norm.weight",)),
        _node("logits", "linear", None, ("last_norm",), suffix, parameters=("lm_head.weight",)),
    ]
    known = {node.id for node in nodes}
    named = (tuple(f"{name}{suffix}" if f"{name}{suffix}" in known else name for name in node.inputs) for node in nodes)
    return tuple(node.model_copy(update={"inputs": inputs}) for node, inputs in zip(nodes, named, strict=True))


def _layer(layer: int, stream: str, suffix: str) -> list[Node]:
    def node(name: str, kind: str, *inputs: str, parameters: tuple[str, ...] = ()) -> Node:
        full = tuple(f"model.layers.{layer}.{parameter}.weight" for parameter in parameters)
        return _node(f"{name}{layer}", kind, layer, inputs, suffix, parameters=full)

    caches = (f"k_cache_{layer}", f"v_cache_{layer}")
    return [
        node("norm", "rms_norm", stream, parameters=("input_layernorm",)),
        node("merged", "linear", f"norm{layer}", parameters=("self_attn.q_proj+k_proj+v_proj",)),
        node("attended", "qkv_attention", f"merged{layer}", "angles", "mask", "slots", *caches),
        node("out", "linear", f"attended{layer}", stream, parameters=("self_attn.o_proj",)),
        node("post", "rms_norm", f"out{layer}", parameters=("post_attention_layernorm",)),
        node("gate", "linear", f"post{layer}", parameters=("mlp.gate_proj",)),
        node("up", "linear", f"post{layer}", parameters=("mlp.up_proj",)),
        node("active", "swiglu", f"gate{layer}", f"up{layer}"),
        node("down", "linear", f"active{layer}", f"out{layer}", parameters=("mlp.down_proj",)),
    ]


def _node(
    name: str,
    kind: str,
    layer: int | None,
    inputs: tuple[str, ...],
    suffix: str,
    *,
    parameters: tuple[str, ...] = (),
    kernel: bool = True,
) -> Node:
    weights = len(parameters) * (HIDDEN * HIDDEN if kind == "linear" else HIDDEN)
    operations = 2 * HIDDEN * HIDDEN if kind == "linear" else 0 if kind == "embedding" else 2 * HIDDEN
    return Node(
        id=f"{name}{suffix}",
        kind=f"{kind}{suffix}",
        kernel=f"{kind}_{HIDDEN}{suffix}" if kernel else "",
        layer=layer,
        inputs=inputs,
        shape=f"[n, {HIDDEN}]",
        dtype="float32",
        parameters=tuple(f"{parameter}{suffix} float32[{HIDDEN}]" for parameter in parameters),
        parameter_bytes=weights,
        decode_bytes=weights + 8 * HIDDEN,
        decode_operations=operations,
        prefill_bytes=weights + 8 * HIDDEN * PREFILL,
        prefill_operations=operations * PREFILL,
    )


def _steps(layers: int, suffix: str) -> tuple[Step, ...]:
    def step(label: str, kind: str, seconds: float | None, operators: dict[str, int], **rest: object) -> Step:
        fields: dict[str, object] = {"origin": "vamc-py 0.1.0", "place": "", "options": {}, "changed": True}
        fields |= {"notes": (), "changes": (), "summary": f"What `{label}` does.{suffix}"} | rest
        return Step.model_validate(
            {"label": f"{label}{suffix}", "kind": kind, "seconds": seconds, "operators": operators, **fields}
        )

    traced = {"matmul": 6 * layers + 1, "permute_dims": 6 * layers + 1, f"add{suffix}": 3 * layers}
    raised = {"linear": 6 * layers + 1, f"add{suffix}": 3 * layers}
    merged = raised | {"linear": 4 * layers + 1}
    options = {"bound": 30.0, f"where{suffix}": f"last{suffix}"}
    foreign = {"origin": f"other_passes 1.2{suffix}", "place": f"model.yaml:9:5{suffix}", "options": options}
    return (
        step("trace", "frontend", 2.0, {}, origin=""),
        step("import", "frontend", 1.0, traced, origin=""),
        step("raise-linear", "raise", 0.02, raised, changes=(_raised(layers, suffix),)),
        step(LONG_PASS, "raise", 0.004, raised, changes=(_long(suffix),)),
        step("merge-linear", "rewrite", 0.0005, merged, changes=_merged(suffix)),
        step(FOREIGN_PASS, "rewrite", 0.001, merged, changed=False, **foreign),
        step("lower-reference", "lower", 0.01, merged, notes=(f"1 x less_equal runs on TVM's own loops{suffix}",)),
        step("build", "build", 9.0, {}, origin=""),
        step("weights", "weights", None, {}, origin=""),
    )


def _lines(suffix: str, *texts: str) -> tuple[DiffLine, ...]:
    kinds = {"-": "removed", "+": "added", " ": "same"}
    return tuple(DiffLine.model_validate({"kind": kinds[text[0]], "text": text[1:] + suffix}) for text in texts)


def _raised(layers: int, suffix: str) -> FunctionChange:
    lines = _lines(suffix, " a = rms_norm(x, w)", "-b = permute_dims(v)", "-c = matmul(a, b)", "+c = linear(a, v)")
    repeats = f"the same in layers 1 to {layers - 1}{suffix}" if layers > 1 else ""
    hunk = DiffHunk(title=f"layer 0{suffix}", repeats=repeats, lines=lines)
    return FunctionChange(name=f"main{suffix}", status="changed", hunks=(hunk,))


def _long(suffix: str) -> FunctionChange:
    size = 50
    hunks = tuple(
        DiffHunk(
            title=f"layer {start // size}", repeats="", lines=_lines(suffix, *(f"-t{start + i}" for i in range(size)))
        )
        for start in range(0, LONG_LINES, size)
    )
    return FunctionChange(name=f"main{suffix}", status="changed", hunks=hunks)


def _merged(suffix: str) -> tuple[FunctionChange, ...]:
    lines = _lines(suffix, "-q = linear(a, wq)", "-k = linear(a, wk)", "+merged = linear(a, wq+wk)")
    return (
        FunctionChange(name=f"step{suffix}", status="added", hunks=()),
        FunctionChange(name="main", status="changed", hunks=(DiffHunk(title="layer 0", repeats="", lines=lines),)),
    )


def _memory(nodes: tuple[Node, ...], suffix: str) -> MemoryPlan:
    """Two storages in turn, and one of its own for the logits, where the peak is."""
    last = len(nodes) - 1
    size = 4 * HIDDEN * PREFILL
    storages = (
        Storage(name=f"storage0{suffix}", bytes=size, values=tuple(n.id for n in nodes[:-1:2]), first=0, last=last),
        Storage(name="storage1", bytes=size, values=tuple(n.id for n in nodes[1:-1:2]), first=1, last=last - 1),
        Storage(name="storage2", bytes=8 * size, values=(nodes[-1].id,), first=last, last=last),
    )
    live = tuple(sum(s.bytes for s in storages if s.first <= index <= s.last) for index in range(len(nodes)))
    parameters = sum(node.parameter_bytes for node in nodes)
    caches, activations = 64 * 1024, sum(storage.bytes for storage in storages)
    return MemoryPlan(
        parameters=parameters,
        caches=caches,
        activations=activations,
        peak=parameters + caches + activations,
        storages=storages,
        live=live,
    )


def _roofline(nodes: tuple[Node, ...], step: str, suffix: str, measured: bool) -> Roofline:
    """One point a kernel, each twice as slow as its limit allows."""
    points = []
    for kernel in dict.fromkeys(node.kernel for node in nodes if node.kernel):
        calls = [node for node in nodes if node.kernel == kernel]
        moved = sum(getattr(node, f"{step}_bytes") for node in calls)
        operations = sum(getattr(node, f"{step}_operations") for node in calls)
        seconds = {"memory": moved / LIMITS.bandwidth, "arithmetic": operations / LIMITS.float_peak}
        bound = max(seconds, key=lambda name: seconds[name])
        points.append(
            RooflinePoint.model_validate(
                {
                    "kernel": kernel,
                    "kind": calls[0].kind,
                    "calls": len(calls),
                    "bytes": moved,
                    "operations": operations,
                    "least_seconds": seconds[bound],
                    "bound": bound,
                    "measured_seconds": 2 * seconds[bound] if measured else None,
                }
            )
        )
    return Roofline(title=f"{step}: some tokens{suffix}", points=tuple(points))
