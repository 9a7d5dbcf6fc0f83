"""Generated families: their worked solutions are right by their own verifiers."""

import subprocess
import sys
from typing import Any

import pytest
from reasoning_gym import get_score_answer_fn

from cispo.config import EvaluationConfig, SourceConfig, TasksConfig
from cispo.data.answer_format import without_thought
from cispo.data.build import held_out_tasks, is_held_out, training_tasks
from cispo.data.code_family import CodeFamily
from cispo.data.mixture import prompt_text
from cispo.data.reasoning_gym_family import ReasoningGymFamily
from cispo.errors import ConfigError

FAMILIES = {
    "basic_arithmetic": {"operators": ["+", "-"], "allow_parentheses": False},
    "chain_sum": {"min_terms": 2, "max_terms": 5},
    "count_bits": {"max_n": 99},
    "gcd": {"max_numbers": 3, "max_value": 60},
    "lcm": {"max_numbers": 2, "max_value": 30},
    "leg_counting": {"max_animals": 4},
    "products": {"max_digits": 3},
    "simple_equations": {"max_terms": 3, "max_value": 20},
}


def answer_of(solution: str) -> str:
    return solution.rpartition("</think>")[2].strip()


def thought_of(solution: str) -> list[str]:
    return solution.partition("</think>")[0].splitlines()[1:]


def check_true(line: str, entry: dict[str, Any]) -> None:
    """Both sides of a line's equations are equal, with the unknown replaced by the answer."""
    statement = line.rpartition(": ")[2].replace("gcd=", "")
    unknown = entry["metadata"].get("variable")
    if unknown:
        statement = statement.replace(unknown, f"({entry['answer']})")
    if entry["metadata"].get("expression") and "=" not in line.strip("= "):
        statement = f"{line.strip('= ')} = {entry['answer']}"
    sides = [eval(side) for side in statement.split("=") if side.strip()]
    assert len(set(sides)) <= 1, line


@pytest.mark.parametrize("family", FAMILIES)
def test_worked_solutions_are_right_and_each_step_is_true(family: str) -> None:
    table = ReasoningGymFamily(family, 60, 7, FAMILIES[family])
    score = get_score_answer_fn(family)
    for row in range(60):
        task = table[row]
        assert task.solution is not None
        assert score(answer_of(task.solution), task.truth["entry"]) == 1.0
        for line in thought_of(task.solution):
            check_true(line, task.truth["entry"])  # type: ignore[arg-type]


def test_the_program_of_a_solution_passes_its_hidden_tests() -> None:
    table = CodeFamily(6, 11)
    for row in range(6):
        task = table[row]
        assert task.solution is not None
        program = answer_of(task.solution).removeprefix("```python\n").removesuffix("```")
        for test in task.truth["tests"]:  # type: ignore[attr-defined]
            ran = subprocess.run(
                [sys.executable, "-c", program],
                input=test["stdin"],
                capture_output=True,
                text=True,
                check=True,
            )
            assert ran.stdout == test["stdout"]


def test_neighbouring_seeds_overlap_as_in_the_library_and_held_out_tasks_still_do_not() -> None:
    options = {"min_terms": 2, "max_terms": 2, "max_digits": 1}
    first, second = (ReasoningGymFamily("chain_sum", 50, seed, options) for seed in (0, 1))
    assert first[1].messages == second[0].messages
    source = SourceConfig(kind="reasoning_gym", name="chain_sum", size=300, options=options)
    tasks = TasksConfig(sources=[source], held_out_fraction=0.2)
    held_out = held_out_tasks(tasks, EvaluationConfig(num_tasks=20), seed=0)
    training = training_tasks(tasks, seed=0, held_out=held_out)
    trained_on = {prompt_text(training.task(i)) for i in range(600)}
    assert len(held_out) == 20
    assert not trained_on & {prompt_text(task) for task in held_out}


def test_an_answer_without_its_thought_keeps_the_form() -> None:
    assert without_thought("<think>\n1+1=2\n</think>\n2") == "<think>\n</think>\n2"


def test_more_held_out_tasks_than_there_are_is_refused() -> None:
    source = SourceConfig(
        kind="reasoning_gym", name="count_bits", size=50, options={"min_n": 1, "max_n": 9}
    )
    evaluation = EvaluationConfig(num_tasks=20, sources=[source])
    with pytest.raises(ConfigError, match="only 9 different tasks"):
        held_out_tasks(TasksConfig(sources=[source]), evaluation, seed=0)


def test_evaluation_without_any_tasks_is_refused() -> None:
    source = SourceConfig(kind="code_family", name="write_program")
    with pytest.raises(ConfigError, match="evaluation has no tasks"):
        held_out_tasks(TasksConfig(sources=[source]), EvaluationConfig(), seed=0)


def test_the_border_of_the_held_out_share_does_not_move_with_the_seed() -> None:
    table = CodeFamily(2000, 0)
    shares = [is_held_out(table[row], 0.1) for row in range(2000)]
    assert sum(shares) / 2000 == pytest.approx(0.1, abs=0.03)
    tasks = TasksConfig(
        sources=[SourceConfig(kind="code_family", name="write_program", size=2000)],
        held_out_fraction=0.1,
    )
    for seed in (0, 1):
        training = training_tasks(tasks, seed=seed)
        assert not any(is_held_out(training.task(i), 0.1) for i in range(300))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("chain_sums", {}, "no reasoning_gym family 'chain_sums'"),
        ("chain_sum", {"min_term": 2}, "min_term"),
        ("chain_sum", {"min_terms": 5, "max_terms": 2}, "chain_sum"),
    ],
)
def test_a_family_that_cannot_be_made_is_refused(
    name: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        ReasoningGymFamily(name, 10, 0, options)
