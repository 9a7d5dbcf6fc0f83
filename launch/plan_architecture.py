"""Finds the architecture of a policy without loading it."""

import json
from pathlib import Path
from typing import Any

from cispo.config import PolicyConfig
from cispo.errors import ConfigError
from cispo.plan.architecture import Architecture
from cispo.plan.reading import read_architecture


def architecture_of(policy: PolicyConfig) -> Architecture:
    """Read `policy.architecture`, or the config.json of `policy.path`.

    Raises:
        ConfigError: There is neither, or one that cannot be read; nothing is downloaded.
    """
    if policy.path is not None:
        folder = Path(policy.path).expanduser()
        file = folder / "config.json" if folder.is_dir() else _cached(policy.path)
        if file is not None and file.is_file():
            return read_architecture(_fields(file), where=str(policy.path))
        if not policy.architecture:
            raise ConfigError(
                f"policy.path={policy.path}: there is no config.json to plan from; make the folder "
                "(for the smoke run: python -m launch.sft experiment=smoke_cold_start), download "
                "the model, or set policy.architecture, for example policy=lightning_tiny"
            )
    if not policy.architecture:
        raise ConfigError(
            "policy.path=null: name a Hugging Face folder, or set policy.architecture, for example "
            "policy=minimax_m1"
        )
    fields = dict(policy.architecture)
    if "vocab_size" not in fields:
        fields["vocab_size"] = _num_tokens(policy.tokenizer)
    return read_architecture(fields, where="policy.architecture")


def _cached(name: str) -> Path | None:
    """The config.json of a hub id that was downloaded before."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json") if name.count("/") == 1 else None
    return Path(found) if isinstance(found, str) else None


def _num_tokens(tokenizer: str) -> int:
    import cispo.policy

    bundled = Path(str(cispo.policy.__file__)).parent / "tokenizers" / tokenizer
    folder = Path(tokenizer).expanduser()
    file = (bundled if bundled.is_dir() else folder) / "tokenizer.json"
    if not file.is_file():
        raise ConfigError(
            f"policy.tokenizer={tokenizer}: no such folder with a tokenizer.json; "
            "or set policy.architecture.vocab_size"
        )
    fields = _fields(file)
    return len({*fields["model"]["vocab"], *(t["content"] for t in fields["added_tokens"])})


def _fields(file: Path) -> dict[str, Any]:
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{file}: not valid JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ConfigError(f"{file}: must hold an object")
    return fields
