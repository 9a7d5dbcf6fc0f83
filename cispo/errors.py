"""Every error that the framework raises on purpose; all survive pickling between processes."""


class CispoError(Exception):
    """Base of all errors with a message that is meant for the user."""


class ConfigError(CispoError, ValueError):
    """The run cannot start as configured; the message names the key, the value and what to do."""


class TaskFileError(ConfigError):
    """A task file cannot be read; the message names the file and the line."""


class SandboxUnavailableError(ConfigError):
    """No sandbox can be started on this machine; the message names the layer that refused."""


class NoSignal(CispoError):  # noqa: N818 - an outcome of training, not a fault
    """Every group of many in a row was dropped, so there is nothing to learn from."""


class UngradedError(CispoError):
    """More verdicts are missing than the run tolerates; the message counts the causes."""


class DivergedError(CispoError):
    """A loss, gradient or log-probability is not finite; the message names the task."""


class WeightSyncError(CispoError):
    """Weights arrived incomplete or changed; the message names the tensor and both checksums."""


class WeightTransferError(WeightSyncError):
    """A broadcast of weights broke off; they can be had in another way."""


class RolloutError(CispoError):
    """No rollout actor could produce a rollout for a task."""


class LearnerError(CispoError):
    """The learner cannot go on: ranks did not start or died; the message names them."""


class CheckpointError(CispoError):
    """A checkpoint is missing, incomplete, or belongs to another run."""


class StalledError(CispoError):
    """Nothing happened for too long; the message names what was waited for, and its age."""


class LearnerLostError(LearnerError):
    """Ranks of the learner died or hung; it can start again from its last checkpoint."""


class RunFolderError(CispoError):
    """What a run needs to go on cannot be written to its folder."""
