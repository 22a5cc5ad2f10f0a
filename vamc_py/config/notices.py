"""Notices: of keys that are accepted and do nothing in this build, of changed facts, of a calibration without data."""

from __future__ import annotations

from collections.abc import Iterator

from vamc_py.config.config import Config
from vamc_py.config.place import Path, dotted
from vamc_py.config.section import Section, section_of, targets_of
from vamc_py.target.vacc.device import Device

_DEVICE: Path = ("frontend", "quantize", "device")
_MERGE: Path = ("backend", "merge_params")
_CALIBRATION: tuple[Path, ...] = (
    ("dataset",),
    _DEVICE,
    ("frontend", "quantize", "calib_args"),
)
_CHECKPOINT_CODE: tuple[Path, ...] = (
    ("frontend", "model_kwargs", "model_arch"),
    ("frontend", "model_kwargs", "trust_remote_code"),
)


def unused_notice(config: Config) -> str | None:
    """Names, in the order of the file's sections, the keys that were written and mean nothing here; None without any.

    A section of which nothing is used is named once, as a whole.
    """
    unused = [dotted(path) for path in _unused(config, config, ())]
    if not unused:
        return None
    build = " ".join(filter(None, (config.backend.type, config.quantize_type)))
    return f"{build} does not use: {', '.join(unused)}."


def published_notice(config: Config) -> str | None:
    """Names the figures of a card that are published and changed here; None without any."""
    if config.target != "vacc":
        return None
    card = Device.named(config.card)
    changed = [f"{key} ({getattr(card, key):g})" for key in config.backend.device.changes() if card.published(key)]
    if not changed:
        return None
    return f"backend.device changes what is published of {card.name}: {', '.join(changed)}."


def rounding_notice(config: Config) -> str | None:
    """Says that weights are rounded to nearest where the file asks for GPTQ without data; None elsewhere."""
    if not config.rounds_without_data:
        return None
    return (
        "frontend.quantize.type is w8a16_gptq and there is no section dataset to calibrate with: weights are rounded "
        "to nearest, as by w8a16."
    )


def _unused(config: Config, section: Section, prefix: Path) -> Iterator[Path]:
    for name, field in type(section).model_fields.items():
        value, path = getattr(section, name), (*prefix, name)
        if name not in section.model_fields_set or value is None:
            continue
        if config.target not in targets_of(field) or _without_effect(config, path):
            if value != field.get_default(call_default_factory=True) or isinstance(value, Section):
                yield path
        elif section_of(field.annotation) and isinstance(value, Section):
            yield from _unused(config, value, path)


def _calibrates(config: Config) -> bool:
    """Whether any weight has a calibrated type, w4a16_gptq say."""
    return any("_" in rule.rpartition("=")[2] for rule in config.weight_rules)


def _without_effect(config: Config, path: Path) -> bool:
    """Keys whose use hangs on other keys: calibration needs a calibrated type and runs on the CPU, GGUF and ONNX files
    hold no code."""
    if path in _CALIBRATION:
        quantize = config.frontend.quantize
        elsewhere = path == _DEVICE and quantize is not None and quantize.device != "cpu"
        return config.language_model and (elsewhere or not _calibrates(config))
    if path == _MERGE:
        return config.backend.merge_params is False  # they are always merged
    return path in _CHECKPOINT_CODE and config.frontend.type in ("gguf", "onnx")
