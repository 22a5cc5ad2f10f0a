"""Made-up results of a benchmark: two rounds, one model, vamc-py and two peers, one of which could not be set up."""

from __future__ import annotations

from benchmarks.engine import Sample
from benchmarks.results import Conversion, EngineFacts, Failure, MachineLimits, Process, Results
from benchmarks.shape import ModelShape

SHAPE = ModelShape(layers=2, hidden=64, intermediate=96, heads=4, kv_heads=2, head_dim=16, vocabulary=288)
OURS, PEER, BROKEN = "vamc-py:bf16", "openvino", "onnxruntime"
MODEL = "tiny"


def process(round_: int, engine: str, measure: str, samples: list[Sample], **changes: float | None) -> Process:
    """A process of MODEL; ``changes`` replace its times and sizes."""
    fields = {"seconds": 2.0, "first_token": None, "anonymous": 100e6, "file": 50e6, "resident": 140e6, **changes}
    return Process(round_, MODEL, engine, measure, seed=round_, samples=samples, **fields)  # type: ignore[arg-type]


def prefill(tokens: int, rate: float) -> Sample:
    """A prompt that went at ``rate`` tokens/s."""
    return Sample("prefill", tokens, 1, tokens, tokens / rate)


def decode(context: int, batch: int, rate: float) -> Sample:
    """Four steps that went at ``rate`` tokens/s, all sequences together."""
    return Sample("decode", context, batch, 4 * batch, 4 * batch / rate)


def sample_results() -> Results:
    """Ours at 1000 and 1200 tokens/s in a prefill of 64, the peer at 500 and 400; and so on."""
    results = Results()
    results.machine = {"cpu": "a CPU", "threads": 2, "memory": 8 << 30, "system": "Linux 6", "date": "2026-01-01"}
    results.models[MODEL] = SHAPE
    results.engines = {
        OURS: EngineFacts("vamc-py, bf16", "int8 weights", {"vamc-py": "1.0"}),
        PEER: EngineFacts("OpenVINO GenAI", "int8 weights", {"openvino": "2.0"}),
        BROKEN: EngineFacts("ONNX Runtime GenAI", "int8 blocks", {}),
    }
    results.failures = [Failure(BROKEN, "", "set-up", "pip failed: no such package")]
    results.conversions = [
        Conversion(MODEL, OURS, 5.0, 300_000_000, 20_000_000, 310_000_000, 60_000_000),
        Conversion(MODEL, PEER, 50.0, 3_000_000_000, 20_000_000, 3_010_000_000, 61_000_000),
    ]
    for round_, (ours, peer) in enumerate(((1000.0, 500.0), (1200.0, 400.0))):
        for measure in ("prefill", "decode", "batch"):
            passes = {"read": [1e6, 2e6, 3e6], "int8": [1e9, 1e9, 4e9]}
            if measure != "batch":
                passes["bf16"] = [1e6]
            results.limits.append(MachineLimits(round_, MODEL, measure, passes))
        for engine, rate in ((OURS, ours), (PEER, peer)):
            samples = [prefill(64, rate * 0.5), prefill(64, rate), prefill(64, rate * 3)]
            results.processes += [
                process(round_, engine, "prefill", samples),
                process(round_, engine, "decode", [decode(16, 1, rate / 100), decode(32, 1, rate / 200)]),
                process(round_, engine, "start", [], first_token=rate / 1000),
            ]
    results.processes.append(process(0, OURS, "batch", [decode(16, 4, 30.0)]))
    return results
