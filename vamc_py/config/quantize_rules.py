"""What ``frontend.quantize`` may say beside the other keys, beside the model, and beside a checkpoint's own formats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from vamc_py.config.load import LoadedConfig
from vamc_py.config.patterns import EMBEDDING, LM_HEAD, matches, without_match
from vamc_py.errors import ConfigError
from vamc_py.weights.formats import WeightFormat

_OF_INT8 = ("type", "lm_head", "activation", "wide", "group", "zeros", "rules")


def quantize_faults(loaded: LoadedConfig) -> Iterator[str]:
    """What is wrong with ``frontend.quantize``, as far as the configuration alone shows it."""
    config = loaded.config
    kind, quantize = config.quantize_type, config.frontend.quantize
    if quantize is None:
        return
    if kind == "w16kv8" and config.backend.dtype == "int8":
        yield loaded.fault(
            "frontend.quantize.type",
            "w16kv8 keeps 16-bit weights, and backend.dtype is int8; --set backend.dtype=fp16, or, for an int8 cache "
            "beside int8 weights, --set frontend.quantize.type=w8a16 --set frontend.quantize.kv8=true",
        )
    elif config.backend.dtype != "int8":
        written = [key for key in _OF_INT8 if getattr(quantize, key) and (key, kind) != ("type", "w16kv8")]
        if written:
            yield loaded.fault(
                f"frontend.quantize.{written[0]}",
                f"contradicts backend.dtype {config.backend.dtype}, which keeps floating-point weights; "
                "--set backend.dtype=int8, or --set frontend.quantize=null",
            )
    else:
        yield from _faults_of_int8(loaded)


def _faults_of_int8(loaded: LoadedConfig) -> Iterator[str]:
    quantize = loaded.config.frontend.quantize
    assert quantize is not None
    if quantize.wide and quantize.activation == "int16":
        yield loaded.fault(
            "frontend.quantize.wide",
            "says nothing beside activation int16, which keeps 16 bits for all weights; remove it, or choose another "
            "activation",
        )
    types = {str(loaded.config.quantize_type), *(rule.type for rule in quantize.rules)}
    if not any(kind.startswith("w4") for kind in types):
        for key in ("group", "zeros"):
            if getattr(quantize, key):
                yield loaded.fault(
                    f"frontend.quantize.{key}",
                    "is for weights of 4 bits, and nothing here asks for those; remove it, or "
                    "--set frontend.quantize.type=w4a16",
                )
    methods = {kind.partition("_")[2] for kind in types} - {""}
    if len(methods) > 1:
        yield loaded.fault(
            "frontend.quantize.rules", "mix GPTQ and AWQ, and a calibration is one of them; choose one for all weights"
        )
    elif methods and loaded.config.frontend.type == "onnx":
        yield loaded.fault("frontend.quantize.type", "an ONNX graph is not calibrated; compile from the checkpoint")
    elif methods and loaded.config.dataset is None:
        yield loaded.fault(
            "frontend.quantize.type",
            "calibrates, and there is no section dataset; write one: name, path, nsamples and seqlen",
        )


def check_wide(loaded: LoadedConfig, matrices: Iterable[str], *, tied: bool) -> None:
    """Pass a configuration whose ``frontend.quantize.wide`` and ``rules`` name weights of the model.

    :param matrices: names of the model's tensors of two dimensions in the checkpoint.
    :param tied: the output projection has the weight of the embedding; it goes by the name of lm_head, too.
    :raises ConfigError: for each pattern that fits none of the quantized weights of linear layers, and each rule that
        asks for 4 bits for lm_head alone, which has 8 or stays float.
    """
    quantize = loaded.config.frontend.quantize
    if quantize is None:
        return
    outer = {LM_HEAD: loaded.config.quantize_lm_head, EMBEDDING: loaded.config.quantize_lm_head and tied}
    names = [name for name in dict.fromkeys((*matrices, LM_HEAD)) if outer.get(name, True)]
    patterns = {f"wide[{index}]": pattern for index, pattern in enumerate(quantize.wide or ())}
    patterns |= {f"rules[{index}].match": rule.match for index, rule in enumerate(quantize.rules)}
    wrong = [
        loaded.fault(f"frontend.quantize.{key}", without_match(pattern, names))
        for key, pattern in patterns.items()
        if not any(matches(pattern, name) for name in names)
    ]
    for index, rule in enumerate(quantize.rules):
        fits = {name for name in names if matches(rule.match, name)}
        if rule.type.startswith("w4") and fits and fits <= set(outer):
            what = "lm_head and the embedding have 8 bits, or with lm_head: false 16; say w8a16 or fp16"
            wrong.append(loaded.fault(f"frontend.quantize.rules[{index}].type", what))
    if wrong:
        raise ConfigError(wrong)


def check_stored(loaded: LoadedConfig, formats: Mapping[str, WeightFormat]) -> None:
    """Pass a configuration that keeps the formats of weights which come quantized.

    :raises ConfigError: where ``backend.dtype`` would have them dequantized, or a calibration would round them again.
    """
    quantize = loaded.config.frontend.quantize
    if formats and quantize is not None and "_" in str(quantize.type):
        what = (
            "calibrates, and the checkpoint comes quantized; use the unquantized checkpoint, or w8a16, which keeps it"
        )
        raise ConfigError([loaded.fault("frontend.quantize.type", what)])
    dtype = loaded.config.backend.dtype
    if formats and dtype != "int8":
        form = next(iter(formats.values()))
        what = f"the checkpoint comes quantized ({form.values}), which {dtype} would dequantize; say int8 to keep it"
        raise ConfigError([loaded.fault("backend.dtype", f"{what}: --set backend.dtype=int8")])
