"""From answers to results: each number of a set with its interval, and how two results differ."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import PurePath
from typing import Any

from cispo.errors import ConfigError
from cispo.evaluation.answers import Answer
from cispo.evaluation.estimators import majority_at_k, pass_at_k, powers_of_two_to
from cispo.evaluation.intervals import Difference, difference, share

Values = Mapping[str, float]
"""The metrics of one problem."""


def describe_set(
    answers: Sequence[Answer], *, num_rollouts: int, metric: str, seed: int
) -> dict[str, Any]:
    """Describe the answers to one set of problems.

    avg@n is the mean over problems of the mean of `metric` over a problem's judged answers. pass@k
    is the chance that one of k is right, maj@k that the most frequent of k is; both are estimated
    from all judged answers of a problem, and problems with fewer than k of those are left out.

    Args:
        answers: Of all problems, in any order.
        num_rollouts: n, answers to each problem.
        metric: Part of the verdicts.
        seed: Of the intervals.

    Returns:
        `metrics`: name to mean, low, high, num_problems; `problems`: task id to the same metrics;
        counts of problems, answers and answers that could not be judged, by cause; mean lengths.
    """
    by_task: defaultdict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_task[answer.task_id].append(answer)
    has_votes = any(answer.vote is not None for answer in answers)
    problems = {
        task_id: _problem(group, num_rollouts=num_rollouts, metric=metric, has_votes=has_votes)
        for task_id, group in sorted(by_task.items())
    }
    return {
        "metrics": {
            name: asdict(share([p[name] for p in problems.values() if name in p], seed=seed))
            for name in _names(problems.values())
        },
        "metric": metric,
        "num_rollouts": num_rollouts,
        "num_problems": len(problems),
        "num_answers": len(answers),
        "ungraded": dict(Counter(a.cause for a in answers if a.parts is None).most_common()),
        "tokens_mean": _mean([answer.num_tokens for answer in answers]),
        "prompt_tokens_mean": _mean([answer.num_prompt_tokens for answer in answers]),
        "truncated_fraction": _mean([answer.stop_reason == "length" for answer in answers]),
        "problems": problems,
    }


def compare_results(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], *, seed: int
) -> dict[str, dict[str, Difference]]:
    """Compare two results on the problems that both have: set, metric, paired difference.

    Raises:
        ConfigError: They have no problem in common, or a set of one name holds other problems.
    """
    compared: dict[str, dict[str, Difference]] = {}
    for name, our_set in ours["sets"].items():
        if name not in theirs["sets"]:
            continue
        _require_same_problems(name, ours, theirs)
        our_problems, their_problems = our_set["problems"], theirs["sets"][name]["problems"]
        common = sorted(set(our_problems) & set(their_problems))
        pairs = [(our_problems[task_id], their_problems[task_id]) for task_id in common]
        compared[name] = {}
        for metric in _names(our for our, _ in pairs):
            shared = [pair for pair in pairs if all(metric in problem for problem in pair)]
            if shared:
                compared[name][metric] = difference(
                    [our[metric] for our, _ in shared],
                    [their[metric] for _, their in shared],
                    seed=seed,
                )
    if not any(compared.values()):
        raise ConfigError(
            f"compare: no problem and metric is in both; {ours['name']} has "
            f"{', '.join(ours['sets'])}, {theirs['name']} has {', '.join(theirs['sets'])}"
        )
    return compared


def _require_same_problems(name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Refuse sets whose problems have the same ids and are others, such as longer prompts."""
    pairs = [
        (_source(results, name), results["sets"][name].get("metric")) for results in (ours, theirs)
    ]
    if pairs[0] != pairs[1]:
        raise ConfigError(
            f"compare: set {name} is another one in {theirs['name']} than in {ours['name']}: "
            f"{pairs[1]} and {pairs[0]}"
        )


def _source(results: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return what a set's problems are, wherever their file lies."""
    source = dict(results["settings"][f"sets.{name}.source"])
    return source | {"name": PurePath(source["name"]).name}


def _problem(
    group: Sequence[Answer], *, num_rollouts: int, metric: str, has_votes: bool
) -> dict[str, float]:
    judged = [answer for answer in group if answer.parts is not None]
    if not judged:
        return {}
    rights = [float(answer.is_right) for answer in judged]
    votes = [answer.vote for answer in judged]
    sizes = [k for k in powers_of_two_to(num_rollouts) if k <= len(judged)]
    values = [answer.parts.get(metric, 0.0) for answer in judged if answer.parts is not None]
    described = {f"avg@{num_rollouts}": _mean(values)}
    described |= {f"pass@{k}": pass_at_k(len(judged), int(sum(rights)), k) for k in sizes}
    if has_votes:
        described |= {f"maj@{k}": majority_at_k(votes, rights, k) for k in sizes if k > 1}
    return described


def _names(problems: Any) -> list[str]:
    return list(dict.fromkeys(name for problem in problems for name in problem))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
