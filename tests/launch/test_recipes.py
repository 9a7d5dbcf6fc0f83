"""The published recipes as configurations: what their papers say is what a run gets."""

from collections.abc import Callable

import pytest
from hydra import compose, initialize_config_module

from cispo.config import PolicyConfig, RunConfig, SamplingConfig, TokenWeighting
from cispo.config.plan import PlanConfig
from cispo.counter_measures import NO_MEASURES, CounterMeasures, MeasuredLearner
from cispo.data.mixture import TaskMixture
from cispo.errors import ConfigError
from cispo.policy.load import bundled_tokenizer
from launch.command import _store_schemas
from launch.context import check_interruption
from launch.recipe import make_recipe
from launch.typed import to_typed
from tests.fakes import make_task

Compose = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def composed() -> Compose:
    def composed(name: str, *overrides: str) -> RunConfig:
        _store_schemas()
        with initialize_config_module("conf", version_base="1.3"):
            config = compose("train", overrides=[f"experiment={name}", *overrides])
        return to_typed(config, RunConfig)

    return composed


def test_m1_is_what_the_paper_says(composed: Compose) -> None:
    m1 = composed("m1")
    optimizer = m1.learner.optimizer
    assert (optimizer.beta1, optimizer.beta2, optimizer.eps) == (0.9, 0.95, 1e-15)
    assert m1.updates_per_iteration == 16
    objective = m1.objective
    assert (objective.kind, objective.token_weighting) == ("cispo", TokenWeighting.PROMPT)
    assert (objective.ratio_min, objective.advantage) == (0.0, "group_std")
    assert objective.dynamic_sampling
    assert (m1.rollout.repetition_tokens, m1.rollout.repetition_probability) == (3000, 0.99)
    windows = [stage.max_new_tokens // 1024 for stage in m1.length_window.stages]
    assert windows == [40, 48, 56, 64, 72, 80]
    assert (m1.tasks.difficulty.above, m1.tasks.difficulty.below) == (0.0, 0.9)
    reasoning, mixed = m1.tasks.curriculum.values()
    assert "general" not in reasoning.weights
    assert mixed.weights["general"] == 25
    assert m1.reward.weights["overlong"] > 0


def test_m1_in_small_is_m1_but_for_its_size(composed: Compose) -> None:
    m1, small = composed("m1"), composed("m1_small")
    for keep in ("objective", "updates_per_iteration"):
        assert getattr(small, keep) == getattr(m1, keep)
    for key in ("beta1", "beta2", "eps", "weight_decay", "max_grad_norm"):
        assert getattr(small.learner.optimizer, key) == getattr(m1.learner.optimizer, key)
    assert small.reward.weights == m1.reward.weights
    late = [
        (stage.token_weighting, stage.max_grad_norm, stage.ratio_max)
        for stage in (m1.length_window.stages[-1], small.length_window.stages[-1])
    ]
    assert late[0] == late[1] == ("sample_token", 0.5, 4.0)


def test_m1_can_be_planned(composed: Compose) -> None:
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("plan", overrides=["experiment=m1", "machine=h800"])
        first = compose("plan", overrides=["experiment=m1_plan"])
    plan, window = to_typed(config, PlanConfig), to_typed(first, PlanConfig)
    assert plan.rollout.sampling.max_new_tokens == 81920
    assert window.rollout.sampling.max_new_tokens == 40960
    assert window.length_window.stages == []
    assert window.learner == plan.learner


def test_dapo_and_grpo_are_what_dapos_paper_says(composed: Compose) -> None:
    dapo, grpo = composed("dapo"), composed("grpo")
    for run in (dapo, grpo):
        rollouts = run.tasks_per_iteration * run.group_size
        assert (rollouts, rollouts // run.updates_per_iteration) == (8192, 512)
        assert (run.learner.optimizer.lr, run.learner.optimizer.weight_decay) == (1e-6, 0.1)
        assert run.rollout.repetition_tokens == 0
    assert (dapo.objective.ratio_min, dapo.objective.ratio_max) == (0.8, 1.28)
    assert (grpo.objective.ratio_min, grpo.objective.ratio_max) == (0.8, 1.2)
    assert (dapo.objective.token_weighting, grpo.objective.token_weighting) == ("token", "sample")
    assert (dapo.objective.dynamic_sampling, grpo.objective.dynamic_sampling) == (True, False)
    assert (dapo.reward.overlong_cache_tokens, grpo.reward.overlong_cache_tokens) == (4096, 0)
    assert dapo.rollout.sampling.max_new_tokens == 16384 + 4096


def test_scalerl_is_what_its_paper_says(composed: Compose) -> None:
    run = composed("scalerl")
    assert (run.tasks_per_iteration * run.group_size, run.max_staleness) == (768, 8)
    assert (run.objective.advantage, run.objective.token_weighting) == ("batch_std", "prompt")
    assert run.objective.leave_out_equal
    assert run.tasks.difficulty.solved_at == 0.9
    sampling = run.rollout.sampling
    assert sampling.max_thinking_tokens - sampling.thinking_jitter_tokens == 10 * 1024
    assert sampling.max_thinking_tokens == 12 * 1024
    assert sampling.interruption.startswith("Okay, time is up.")
    assert (run.learner.optimizer.lr, run.learner.optimizer.eps) == (5e-7, 1e-15)


class Tasks:
    """A table of one task."""

    name = "sums"

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> object:
        return make_task(index)


def test_a_recipe_steers_engine_and_learner_by_its_window(composed: Compose) -> None:
    cfg = composed("m1_small")
    tasks = TaskMixture([Tasks()], [1.0], seed=0)  # type: ignore[list-item]
    recipe = make_recipe(cfg, tasks, announce=print)
    assert recipe.window is not None
    assert recipe.window.max_new_tokens == 56
    assert recipe.window.measures == NO_MEASURES
    recipe.schedules.restore({"length_window": {"stage": 2}})
    assert recipe.window.max_new_tokens == 96
    assert recipe.window.measures == CounterMeasures(
        token_weighting=TokenWeighting.SAMPLE_TOKEN, max_grad_norm=0.5, ratio_max=4.0
    )
    assert set(recipe.schedules.state()) == {"tasks", "length_window"}
    learner: object = object()
    assert isinstance(recipe.learner(learner), MeasuredLearner)  # type: ignore[arg-type]
    cfg.length_window.stages = []
    plain = make_recipe(cfg, tasks, announce=print)
    assert plain.learner(learner) is learner  # type: ignore[arg-type]


def test_an_interruption_that_leaves_no_room_is_refused_before_anything_starts() -> None:
    policy = PolicyConfig(path=str(bundled_tokenizer("bpe1024")))
    sampling = SamplingConfig(
        max_new_tokens=64, max_thinking_tokens=40, interruption="Time is up. </think>"
    )
    check_interruption(policy, sampling, max_new_tokens=64, key="rollout.sampling")
    with pytest.raises(ConfigError, match=r"rollout\.sampling\.max_thinking_tokens=40: .* budget"):
        check_interruption(policy, sampling, max_new_tokens=42, key="rollout.sampling")
