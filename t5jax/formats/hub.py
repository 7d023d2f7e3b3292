"""Checkpoints of the Hugging Face hub, downloaded into its cache."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id

# One kind of weights is enough; a repository may hold them for five libraries.
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "flax_model*.msgpack")
_OTHER = ("*.json", "*.model")


def looks_like_id(name: str) -> bool:
    """Whether `name` can be a hub id: `t5-small`, or `google/flan-t5-base`."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def download(repo: str) -> Path:
    """The folder of a repository's files: configuration, tokenizer, the best kind of weights.

    Raises:
      FileNotFoundError: the hub has no such repository, or is out of reach and nothing is cached.
    """
    try:
        # Not list_repo_files, which tries again for half a minute where there is no network.
        siblings = huggingface_hub.HfApi().model_info(repo, timeout=10).siblings or []
        files = [sibling.rfilename for sibling in siblings]
        weights = next((p for p in _WEIGHTS if any(Path(f).match(p) for f in files)), _WEIGHTS[0])
        patterns = [weights, *_OTHER]
        return Path(huggingface_hub.snapshot_download(repo, allow_patterns=patterns))
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403, 404):
            raise FileNotFoundError(
                f"{repo} is no folder here, and the hub has no such model (or it is private: "
                "log in with `hf auth login`)"
            ) from error
        return _cached(repo)
    except Exception:  # no network: which exception says so depends on the library's version
        return _cached(repo)


def _cached(repo: str) -> Path:
    try:
        return Path(huggingface_hub.snapshot_download(repo, local_files_only=True))
    except LocalEntryNotFoundError:
        raise FileNotFoundError(
            f"{repo} is no folder here, the hub is out of reach, and the model is not in its "
            "cache; download it where there is a network, or give a folder"
        ) from None
