"""Judges conversations of tau2-bench by its own evaluator."""

import asyncio
from collections.abc import Mapping
from typing import Any

from cispo.data.tau2 import tau2_module, tau2_problems
from cispo.errors import ConfigError
from cispo.types import Ungraded
from rewards.truth import BadTruthError, truth_field


async def grade_tau2(answer: str, truth: Mapping[str, Any]) -> Mapping[str, float] | Ungraded:
    """Return `correct`, 1.0 or 0.0, and tau2's own parts, such as `db` and `communicate`.

    The actions are replayed in a fresh environment, whose state then has to be the right one.

    Args:
        answer: A finished `SimulationRun` as JSON. Anything else is no finished conversation and is
            wrong.
        truth: `{"domain", "task_id"}`.
    """
    return await asyncio.to_thread(_grade, answer, truth)


def _grade(answer: str, truth: Mapping[str, Any]) -> Mapping[str, float] | Ungraded:
    try:
        domain, task_id = (truth_field(truth, key, str) for key in ("domain", "task_id"))
        problem = tau2_problems(domain, None)[task_id]
    except (BadTruthError, ConfigError, KeyError) as error:
        return Ungraded(cause=f"tau2: no such task: {error}")
    try:
        simulation = tau2_module("data_model.simulation").SimulationRun.model_validate_json(answer)
    except ValueError:
        return {"correct": 0.0}
    evaluator = tau2_module("evaluator.evaluator")
    try:
        found = evaluator.evaluate_simulation(
            simulation=simulation,
            task=problem,
            evaluation_type=evaluator.EvaluationType.ALL,
            solo_mode=False,
            domain=domain,
        )
    except Exception as error:  # some domains ask a model of their own, which can be down
        return Ungraded(cause=f"tau2: its evaluator failed: {type(error).__name__}: {error}")
    parts = {str(key.value).lower(): float(v) for key, v in (found.reward_breakdown or {}).items()}
    return {**parts, "correct": float(found.reward >= 1.0), "score": float(found.reward)}
