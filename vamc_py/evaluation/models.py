"""Which artifacts ``vamc-py eval`` runs: those that it is given, and those that it compiles for the purpose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vamc_py.artifact.verify import read_manifest
from vamc_py.config import check_compilable, load_config
from vamc_py.errors import ConfigError
from vamc_py.evaluation.evaluate import Model
from vamc_py.evaluation.reference import built, config_of, float_model, kept_in, scheme_config
from vamc_py.extras import require_compiler

NO_REFERENCE = "none"


def artifact_models(artifact: Path, against: str | None, cache: Path | None) -> list[Model]:
    """The reference, unless ``against`` is "none", and the artifact.

    The reference is the artifact that ``against`` names; None: the float model, compiled from the artifact's own
    configuration into ``cache`` (by default ``.eval`` beside the artifact).
    """
    read_manifest(artifact)  # refuses a folder that is none, before anything is compiled
    reference = _given(against)
    if against is None:
        reference = [Model(*float_model(config_of(artifact), cache or kept_in(artifact.resolve().parent)))]
    return [*reference, Model(artifact.resolve().name, artifact)]


def config_models(
    config: Path, overrides: Sequence[str], schemes: Sequence[str], against: str | None, cache: Path | None
) -> list[Model]:
    """As ``artifact_models``, of a configuration compiled with each of the schemes, or as it is where there are none.

    ``cache`` is by default ``.eval`` in the configuration's workspace. All schemes are checked before the first is
    compiled.
    """
    loaded = load_config(config, overrides)
    if loaded.config.target == "vacc":
        fault = (
            "a simulation is too slow to measure a model; eval compares weights, and tvm_llvm quantizes them the same "
            "way (--set backend.type=tvm_llvm --set backend.target=native)"
        )
        raise ConfigError([loaded.fault("backend.type", fault)])
    require_compiler()
    cache = cache or kept_in(loaded.config.workspace.path)
    wanted = {scheme: scheme_config(loaded, scheme) for scheme in schemes}
    wanted = wanted or {loaded.config.quantize_type or loaded.config.backend.dtype: loaded}
    for one in wanted.values():
        check_compilable(one)
    reference = _given(against)
    if against is None:
        reference = [Model(*float_model(loaded, cache))]
    return [*reference, *(Model(scheme, built(one, scheme, cache)) for scheme, one in wanted.items())]


def _given(against: str | None) -> list[Model]:
    if against in (None, NO_REFERENCE):
        return []
    folder = Path(str(against))
    read_manifest(folder)
    return [Model(folder.resolve().name, folder)]
