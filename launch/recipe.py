"""What a run changes on its way: its length window and its curriculum, with what they steer."""

from collections.abc import Callable
from dataclasses import dataclass

from cispo.config import LengthWindowConfig, RunConfig, TokenWeighting, WindowConfig
from cispo.counter_measures import CounterMeasures, MeasuredLearner
from cispo.data.mixture import TaskMixture
from cispo.learner.group import LearnerGroup
from cispo.length_window import Criteria, LengthWindow, Window
from cispo.ports import Learner, RolloutEngine, Schedule
from cispo.schedules import Schedules
from rollout.pool import RolloutPool


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The schedules of a run, which outlive a restart of its learner.

    Attributes:
        schedules: All of them as one.
        window: The length window; None where the budget is the same throughout.
    """

    schedules: Schedules
    window: LengthWindow | None

    def engine(self, pool: RolloutPool) -> RolloutEngine:
        """The engine of training, with the window's budget."""
        window = self.window
        return pool if window is None else pool.with_budget(lambda: window.max_new_tokens)

    def learner(self, group: LearnerGroup) -> Learner:
        """The learner of training, with the window's counter-measures."""
        window = self.window
        return group if window is None else MeasuredLearner(group, lambda: window.measures)


def make_recipe(cfg: RunConfig, tasks: TaskMixture, *, announce: Callable[[str], None]) -> Recipe:
    """Make the schedules that a configuration asks for, at their beginning.

    Args:
        cfg: The whole configuration.
        tasks: The training tasks, with their curriculum.
        announce: Told each change, in a line.
    """
    tasks.announce_to(announce)
    parts: dict[str, Schedule] = {"tasks": tasks}
    window = _length_window(cfg.length_window, announce) if cfg.length_window.stages else None
    if window is not None:
        parts["length_window"] = window
    return Recipe(schedules=Schedules(parts), window=window)


def _length_window(cfg: LengthWindowConfig, announce: Callable[[str], None]) -> LengthWindow:
    return LengthWindow(
        [_window(stage) for stage in cfg.stages],
        Criteria(
            iterations=cfg.iterations,
            perplexity_tolerance=cfg.perplexity_tolerance,
            near_fraction=cfg.near_fraction,
        ),
        announce=announce,
    )


def _window(stage: WindowConfig) -> Window:
    weighting = stage.token_weighting
    return Window(
        max_new_tokens=stage.max_new_tokens,
        measures=CounterMeasures(
            ratio_max=stage.ratio_max,
            max_grad_norm=stage.max_grad_norm,
            token_weighting=None if weighting is None else TokenWeighting(weighting),
        ),
    )
