"""Where answers are found, and where not."""

import time
from collections.abc import Callable

import pytest

from rewards.extract import after_thought, has_form, math_answer, program, tagged_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>2+2</think>4", "4"),
        ("2+2</think>\n 4 \n", "4"),
        ("<think>a</think>b</think>c", "c"),
        ("no thought", "no thought"),
        ("<think>cut off: the answer is 4", ""),
        ("<think></think>", ""),
    ],
)
def test_the_answer_follows_the_last_thought(text: str, answer: str) -> None:
    assert after_thought(text) == answer


@pytest.mark.parametrize(
    ("text", "is_well_formed"),
    [
        ("<think>a</think>b", True),
        ("a</think>b", True),  # the template opened the thought
        ("\n<think>\na\n</think>\nb\n", True),
        ("b", False),
        ("<think>a</think> \n", False),
        ("<think>a", False),
        ("<think>a</think>b</think>c", False),
        ("<think>a<think>b</think>c", False),
        ("<think>a</think>b<think>c", False),
        ("x<think>a</think>b", False),
        ("</think>b", True),
    ],
)
def test_form_is_one_thought_then_an_answer(text: str, is_well_formed: bool) -> None:
    assert has_form(text) is is_well_formed


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{4}", r"so \boxed{4}"),
        (r"<think>\boxed{1}</think>\boxed{2}", r"\boxed{2}"),
        (r"<think>\boxed{1}</think>none", "none"),
        ("\\boxed{1}\nthen\n\\boxed{\\frac{1}{2}} done\nbye", r"\boxed{\frac{1}{2}} done"),
        ("\\boxed{\n1\n}", "\\boxed{\n1\n}"),
        (r"\boxed{1} and \boxed{2}", r"\boxed{1} and \boxed{2}"),
        ("\\boxed{1}\n\\boxed{2", r"\boxed{1}"),
        (r"\boxed {\{1,2\}}", r"\boxed {\{1,2\}}"),
        (r"\boxed{\}}", r"\boxed{\}}"),
        (r"\fbox{7}", r"\fbox{7}"),
        ("first\nlast line\n\n", "last line"),
        ("", ""),
        (r"\boxed", r"\boxed"),
    ],
)
def test_mathematics_takes_the_line_of_the_last_whole_box(text: str, answer: str) -> None:
    assert math_answer(text) == answer


@pytest.mark.parametrize("extract", [math_answer, tagged_answer, program, has_form])
@pytest.mark.parametrize(
    "unit",
    [
        *(r"\boxed{", r"\boxed", "{", "}", "<answer>", "</answer>", "<think>", "\n"),
        *("```python\n", "```\n", "~~~ ", "answer ", "answer:", "####", "$$", r"\]", r"\["),
    ],
)
def test_extraction_is_linear_in_a_hostile_text(
    extract: Callable[[str], object], unit: str
) -> None:
    started = time.process_time()
    extract(unit * 50_000)
    assert time.process_time() - started < 2.0


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>x</think><answer> 7 </answer>", "7"),
        ("<answer>1</answer><answer>2</answer>", "2"),
        ("<think><answer>1</answer></think>2", "2"),
        ("plain", "plain"),
    ],
)
def test_puzzles_take_the_tagged_answer(text: str, answer: str) -> None:
    assert tagged_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("```python\nprint(1)\n```", "print(1)"),
        ("<think>```python\nx\n```</think>```py\nprint(2)\n```", "print(2)"),
        ("```python\na\n```\ntext\n```Python3\nb\n```", "b"),
        ("```python\nprint(1)", "print(1)"),
        ("</think>print(3)", "print(3)"),
        ("```\nprint(1)\n```", "print(1)"),
        ("```python\nprint(1)\n```\nIt prints\n```\n1\n```", "print(1)"),
        ("```bash\nls\n```", "```bash\nls\n```"),
        ("```python\n```", ""),
        ("```python\nprint(1)```", "print(1)"),
        ("```python\ns = '```'\nprint(s)\n```", "s = '```'\nprint(s)"),
        ("```python title=a.py\nprint(1)\n```", "print(1)"),
        ("```python\r\nprint(1)\r\n```", "print(1)"),
        ("~~~py\nprint(1)\n~~~", "print(1)"),
        ("1. So:\n   ```python\n   if x:\n       y\n   ```", "if x:\n    y"),
        ("<answer>\nprint(1)\n</answer>", "print(1)"),
    ],
)
def test_programs_are_the_last_python_block(text: str, source: str) -> None:
    assert program(text) == source
