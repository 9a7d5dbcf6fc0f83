"""The schema of `conf/`: what may be set, in which range, and which combinations cannot work.

Each class validates itself when it is built, so that a bad run is refused before anything starts.
The classes are not frozen because the configuration library would make such nodes read-only and
fail to compose them.
"""

from cispo.config.actors import RewardConfig, RolloutConfig
from cispo.config.cluster import ClusterConfig
from cispo.config.export import ExportConfig
from cispo.config.judge import JudgeConfig
from cispo.config.learner import Decay, LearnerConfig, Offload, OptimizerConfig
from cispo.config.length_window import LengthWindowConfig, WindowConfig
from cispo.config.objective import (
    AdvantageKind,
    AnchorKind,
    ObjectiveConfig,
    ObjectiveKind,
    TokenWeighting,
)
from cispo.config.policy import PolicyConfig, SamplingConfig
from cispo.config.run import RunConfig, SftConfig, TrackingConfig
from cispo.config.sandbox import SandboxConfig
from cispo.config.tasks import EvaluationConfig, SourceConfig, TasksConfig
from cispo.config.watchdog import WatchdogConfig
from cispo.config.weights import WeightsConfig

__all__ = [
    "AdvantageKind",
    "AnchorKind",
    "ClusterConfig",
    "Decay",
    "EvaluationConfig",
    "ExportConfig",
    "JudgeConfig",
    "LearnerConfig",
    "LengthWindowConfig",
    "ObjectiveConfig",
    "ObjectiveKind",
    "Offload",
    "OptimizerConfig",
    "PolicyConfig",
    "RewardConfig",
    "RolloutConfig",
    "RunConfig",
    "SamplingConfig",
    "SandboxConfig",
    "SftConfig",
    "SourceConfig",
    "TasksConfig",
    "TokenWeighting",
    "TrackingConfig",
    "WatchdogConfig",
    "WeightsConfig",
    "WindowConfig",
]
