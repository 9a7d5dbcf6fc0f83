"""Which models vLLM can run, and whether it is here at all (loads nothing of it)."""

import json
import re
from collections.abc import Mapping
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path

from cispo.errors import ConfigError

LAST_WITH_LIGHTNING = (0, 23, 0)
"""The last vLLM whose register of models holds those with lightning attention."""

_LIGHTNING = frozenset(
    (
        "MiniMaxForCausalLM",
        "MiniMaxText01ForCausalLM",
        "MiniMaxM1ForCausalLM",
        "MiniMaxVL01ForConditionalGeneration",
    )
)
"""Their names in `architectures` of config.json."""


def check_vllm(path: str) -> None:
    """Refuse a model that the installed vLLM cannot run.

    Args:
        path: The model's folder; of a hub id nothing is known here, and vLLM itself tells.

    Raises:
        ConfigError: There is no vLLM, or none that runs the model.
    """
    if find_spec("vllm") is None:
        raise ConfigError(
            "rollout.backend=vllm: vLLM is not installed; pip install 'cispo-rl[vllm]', or choose "
            "rollout=transformers"
        )
    (distribution, *_) = packages_distributions()["vllm"]  # which builds for CPUs name otherwise
    try:
        fields = json.loads((Path(path).expanduser() / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    refuse_model(fields, version(distribution), path=path)


def tensor_names(path: str) -> frozenset[str] | None:
    """Names of the tensors in a folder's files; None of a hub id, or where they cannot be read."""
    files = sorted(Path(path).expanduser().glob("*.safetensors"))
    names: set[str] = set()
    for file in files:
        with file.open("rb") as opened:
            header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
        names.update(header)
    return frozenset(names - {"__metadata__"}) if files else None


def refuse_model(fields: Mapping[str, object], installed: str, *, path: str) -> None:
    """Refuse a model with lightning attention where vLLM is too new for it.

    Args:
        fields: Of its config.json.
        installed: vLLM's version.
        path: The model's folder, for the message.

    Raises:
        ConfigError: It is.
    """
    named = fields.get("architectures")
    lightning = _LIGHTNING.intersection(named if isinstance(named, list) else ())
    numbers = tuple(map(int, re.findall(r"\d+", installed)[:3]))
    if lightning and numbers > LAST_WITH_LIGHTNING:
        raise ConfigError(
            f"rollout.backend=vllm: vLLM {installed} cannot run {min(lightning)} of {path}, which "
            "it dropped after 0.23.0; pip install 'vllm<=0.23.0', or choose rollout=lightning "
            "with policy=lightning"
        )
