"""A small repository of our own with a fault that the issue tells of: SWE tasks without downloads.

Each row is the same package with another faulty function. Hidden tests call it; they need no
package, so that a grading takes as long as starting Python.
"""

from collections.abc import Sequence
from random import Random

from cispo.data.answer_format import with_thought
from cispo.data.operations import OPERATIONS, Operation
from cispo.data.swe.instance import Instance, Setup
from cispo.data.swe.patch import FilePatch, Hunk, format_diff
from cispo.data.swe.tasks import Form, check_form, instance_task
from cispo.types import Message, Task

_FILE = "sums.py"
_TESTS = "tests/test_sums.py"
_NUM_TESTS = 8
_UNTOUCHED = {
    "README.md": "# sums\n\nSmall functions of numbers and words.\n",
    "words.py": 'def shout(word):\n    return word.upper() + "!"\n',
    "tests/test_words.py": (
        'from words import shout\n\n\ndef test_shout():\n    assert shout("ab") == "AB!"\n'
    ),
}


_OPERATIONS = tuple(
    Operation(o.words.format("a", "b"), o.code.format("a", "b"), o.value) for o in OPERATIONS[:5]
)


class SweToyFamily:
    """A table of repairs; row i depends on `seed + i` alone.

    Args:
        size: Number of rows.
        seed: Of the first row.
        form: See `cispo.data.swe.tasks.instance_task`.
    """

    name = "repair_function"

    def __init__(self, size: int, seed: int, form: Form = "single_shot") -> None:
        check_form(form)
        self._size = size
        self._seed = seed
        self._form: Form = form

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, row: int) -> Task:
        number = self._seed + row
        rng = Random(f"{self.name}/{number}")
        right, wrong = rng.sample(_OPERATIONS, 2)
        sign, constant = rng.choice("+-"), rng.randint(1, 9)
        extra = constant if sign == "+" else -constant
        words = f"{right.words}, {'plus' if sign == '+' else 'minus'} {constant}"
        before, after = (f"    return {o.code}{sign}{constant}\n" for o in (wrong, right))
        tests = [_test(rng, right, wrong, extra) for _ in range(_NUM_TESTS)]
        instance = _instance(f"{self.name}/{number}", words, before, after, tests)
        if self._form == "agent":
            return instance_task(instance, "agent", source=self.name)
        answer = f"```diff\n-{before}+{after}```"
        return Task(
            task_id=instance.instance_id,
            messages=(Message(role="user", content=_prompt(instance)),),
            verifier="swe",
            truth={"instance": instance.to_json()},
            source=self.name,
            solution=with_thought([after.removeprefix("    return ").strip()], answer),
        )


def _prompt(instance: Instance) -> str:
    """A prompt that a tiny model can afford."""
    return f"{instance.problem_statement}\n{instance.shown_files[_FILE]}"


def _instance(
    instance_id: str, words: str, before: str, after: str, tests: Sequence[str]
) -> Instance:
    head = "def mix(a,b):\n"
    source = "".join(tests)
    hidden = tuple(f"from sums import mix\n\n{source}".splitlines(keepends=True))
    fix = Hunk(old=(head, before), new=(head, after), start=1)
    added = Hunk(old=(), new=hidden, start=1)
    return Instance(
        instance_id=instance_id,
        problem_statement=f"Fix {_FILE}: mix must return {words}.",
        patch=format_diff([FilePatch(old_path=_FILE, new_path=_FILE, hunks=(fix,))]),
        test_patch=format_diff([FilePatch(old_path=None, new_path=_TESTS, hunks=(added,))]),
        fail_to_pass=tuple(
            f"{_TESTS}::{line[4:-4]}" for line in hidden if line.startswith("def test_")
        ),
        pass_to_pass=("tests/test_words.py::test_shout",),
        setup=Setup(runner="functions"),
        tree={_FILE: head + before, **_UNTOUCHED},
        shown_files={_FILE: head + before},
    )


def _test(rng: Random, right: Operation, wrong: Operation, extra: int) -> str:
    """Write a test that the fault fails."""
    while True:
        a, b = rng.randint(-30, 30), rng.randint(-30, 30)
        if right.value(a, b) != wrong.value(a, b):
            break
    name = f"test_mix_{rng.getrandbits(32):08x}"
    return f"\ndef {name}():\n    assert mix({a}, {b}) == {right.value(a, b) + extra}\n"
