"""Tables of long prompts that are made on the fly."""

import inspect
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from cispo.data.long_context.dialogues import mr_niah, mrcr
from cispo.data.long_context.latent_list import latent_list
from cispo.data.long_context.length import token_count
from cispo.data.long_context.needles import counting, needle
from cispo.data.long_context.question import Question
from cispo.errors import ConfigError
from cispo.types import Message, Task

VERIFIER = "recall"

_MAKERS: Mapping[str, Callable[..., Question]] = {
    "needle": needle,
    "mr_niah": mr_niah,
    "mrcr": mrcr,
    "latent_list": latent_list,
    "counting": counting,
}
_GIVEN = ("rng", "row", "count")
_COUNTS = ("needles", "operations", "tokens")


class LongContextFamily:
    """The tasks of one family; row i depends on `seed + i` and the options alone.

    Args:
        name: Of the family.
        size: Number of rows.
        seed: Of the first row.
        options: `tokens`, length of a prompt; `tokenizer`, which counts them, see `token_count`;
            and what the family's maker takes besides, such as `needles` or `haystack`.

    Raises:
        ConfigError: There is no such family or option, or the prompt has no room for its needles.
    """

    def __init__(self, name: str, size: int, seed: int, options: Mapping[str, Any]) -> None:
        if name not in _MAKERS:
            known = ", ".join(_MAKERS)
            raise ConfigError(f"tasks.sources: no long_context family {name!r}; there are {known}")
        self._options = dict(options)
        self._count = token_count(self._options.pop("tokenizer", None))
        self._make = _MAKERS[name]
        _check(name, self._options, list(inspect.signature(self._make).parameters))
        needles = self._options.get("needles")
        self.name = name if needles is None else f"{name}_{needles}"
        self._size = size
        self._seed = seed
        self[0]

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, row: int) -> Task:
        number = self._seed + row
        rng = Random(f"{self.name}/{sorted(self._options.items())}/{number}")
        question = self._make(rng, number, self._count, **self._options)
        return Task(
            task_id=f"{self.name}/{number}",
            messages=tuple(
                Message(role="assistant" if index % 2 else "user", content=text)
                for index, text in enumerate(question.messages)
            ),
            verifier=VERIFIER,
            truth=question.truth,
            source=self.name,
            solution=question.answer,
        )


def _check(name: str, options: Mapping[str, Any], parameters: list[str]) -> None:
    known = [parameter for parameter in parameters if parameter not in _GIVEN]
    for key, value in options.items():
        if key not in known:
            raise ConfigError(
                f"tasks.sources[{name}].options.{key}={value}: no such option; there are "
                f"{', '.join([*known, 'tokenizer'])}"
            )
        if key in _COUNTS and (type(value) is not int or not 1 <= value <= 2**24):
            raise ConfigError(
                f"tasks.sources[{name}].options.{key}={value}: must be a whole number >= 1"
            )
        if key == "needles" and value > 20:
            raise ConfigError(f"tasks.sources[{name}].options.needles={value}: must be <= 20")
    if "tokens" not in options:
        raise ConfigError(f"tasks.sources[{name}].options.tokens: give the length of a prompt")
