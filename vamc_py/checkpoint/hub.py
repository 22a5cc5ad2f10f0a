"""Checkpoints on the Hugging Face hub, fetched into its cache."""

from __future__ import annotations

import re
from pathlib import Path

from vamc_py.errors import CheckpointError

_PATTERNS = ["*.json", "*.safetensors", "*.jinja", "*_vacc.py"]
_TIMEOUT = 4  # seconds for the first answer; the library's 10 are long where there is no network
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_id(location: str) -> bool:
    """Whether the text has the form owner/name."""
    return _HUB_ID.fullmatch(location) is not None


def download(hub_id: str, key: str = "frontend.checkpoint") -> Path:
    """The folder of a hub checkpoint's newest state; fetched, or from the cache where there is no network.

    ``key``: where the YAML names it, for messages.

    Raises CheckpointError: no network and nothing cached, no such model, or one that needs permission.
    """
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=_PATTERNS, etag_timeout=_TIMEOUT))
    except errors.GatedRepoError as error:
        reason = "the hub asks for permission: accept the model's terms there and log in with `huggingface-cli login`"
        raise CheckpointError(f"{hub_id}: {reason}") from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        reason = "there is no such folder here and no such public model on the Hugging Face hub"
        raise CheckpointError(f"{hub_id}: {reason}; correct {key}") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        reason = "there is no such folder here, and the Hugging Face hub cannot be reached (no network or offline)"
        raise CheckpointError(f"{hub_id}: {reason}; set {key} to a downloaded folder") from error
    except OSError as error:  # a full disk, a lost connection: requests' errors are OSErrors
        raise CheckpointError(f"{hub_id}: the download failed: {error}; mend that and try again") from error
