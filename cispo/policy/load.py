"""Policies and tokenizers from and to Hugging Face folders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from cispo.errors import ConfigError
from cispo.policy.base import Policy
from cispo.policy.hf import TransformersPolicy, load_transformers, save_transformers
from cispo.policy.lightning.checkpoint import (
    empty_model,
    is_lightning,
    load_lightning,
    save_lightning,
)
from cispo.policy.lightning.config import LightningConfig
from cispo.policy.lightning.model import LightningModel
from cispo.policy.whole_folder import whole_folder

_BUNDLED = Path(__file__).parent / "tokenizers"


def load_policy(
    path: str, *, backend: str, dtype: torch.dtype, logprob_chunk: int, kernels: str = "auto"
) -> Policy:
    """Load the model of a folder, or of a hub id with the `transformers` backend.

    Args:
        path: Folder or hub id.
        backend: `lightning` or `transformers`.
        dtype: Of the weights; routers and the head's products are float32 in any case.
        logprob_chunk: Positions whose logits exist at once.
        kernels: See `PolicyConfig`.

    Raises:
        ConfigError: There is no such model, or its files do not fit together.
    """
    if backend == "transformers":
        return load_transformers(path, dtype=dtype, logprob_chunk=logprob_chunk, kernels=kernels)
    if backend != "lightning":
        raise ConfigError(f"policy.backend={backend}: choose lightning or transformers")
    folder = Path(path).expanduser()
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"policy.path={path}: no such folder with a config.json; name a model's folder, "
            "or make one with python -m launch.sft"
        )
    return load_lightning(folder, dtype=dtype, logprob_chunk=logprob_chunk, kernels=kernels)


def new_lightning_policy(
    architecture: Mapping[str, Any],
    tokenizer: str,
    *,
    seed: int,
    dtype: torch.dtype = torch.float32,
    logprob_chunk: int = 1024,
    kernels: str = "auto",
) -> LightningModel:
    """Make a model with random weights, the same for the same seed.

    Args:
        architecture: Fields of config.json; without `vocab_size` it is the tokenizer's.
        tokenizer: Folder or bundled name.
        seed: Decides the weights.
        dtype: Of the weights.
        logprob_chunk: Positions whose logits exist at once.
        kernels: See `PolicyConfig`.

    Raises:
        ConfigError: A field is unknown or missing, or the vocabulary is too small.
    """
    num_tokens = len(load_tokenizer(str(bundled_tokenizer(tokenizer))))
    config = LightningConfig.from_dict({"vocab_size": num_tokens, **architecture})
    if config.vocab_size < num_tokens:
        raise ConfigError(
            f"policy.architecture.vocab_size={config.vocab_size}: tokenizer {tokenizer} has "
            f"{num_tokens} tokens; leave vocab_size out to take that number"
        )
    model = empty_model(config, dtype=dtype, logprob_chunk=logprob_chunk, kernels=kernels)
    model.initialise(seed)
    return model


def save_policy(policy: Policy, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a folder that `load_policy` and `load_tokenizer` read back exactly, all or nothing.

    What was in the folder before is gone afterwards.
    """
    with whole_folder(folder) as unfinished:
        match policy:
            case LightningModel():
                save_lightning(policy, unfinished)
            case TransformersPolicy():
                save_transformers(policy, unfinished)
            case _:
                raise TypeError(f"cannot save a {type(policy).__name__}")
        tokenizer.save_pretrained(unfinished)


def bundled_tokenizer(name: str) -> Path:
    """Folder of a tokenizer that ships with the package, or the folder that `name` already is.

    Raises:
        ConfigError: It is neither.
    """
    for folder in (_BUNDLED / name, Path(name).expanduser()):
        if (folder / "tokenizer.json").is_file():
            return folder
    names = ", ".join(sorted(entry.name for entry in _BUNDLED.iterdir() if entry.is_dir()))
    raise ConfigError(
        f"policy.tokenizer={name}: neither a folder with a tokenizer.json nor one of {names}"
    )


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder or hub id.

    Raises:
        ConfigError: There is none.
    """
    # without a config of its own it would warn that it does not know our type of model
    known = {"config": PreTrainedConfig()} if is_lightning(Path(path).expanduser()) else {}
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, **known)
    except (OSError, ValueError) as error:
        raise ConfigError(f"policy.path={path}: there is no tokenizer: {error}") from error
    return tokenizer
