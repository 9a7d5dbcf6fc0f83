"""Configuration of the watchdog."""

from dataclasses import dataclass

from cispo.config.require import require


@dataclass(slots=True, kw_only=True)
class WatchdogConfig:
    """What happens when nothing happens.

    An event is the begin, the end or a counted unit of a phase: a group that is complete, an
    optimizer step, a publish. Limits must exceed the longest of these.

    Attributes:
        dump_seconds: Time without an event after which the stacks of all processes are written to
            the run's folder; 0 never.
        end_seconds: Time without an event after which the run is ended, with an error that names
            what it waited for; 0 never.
        grace_seconds: Time that an ended run has to stop its processes in order.
    """

    dump_seconds: float = 900.0
    end_seconds: float = 7200.0
    grace_seconds: float = 60.0

    def __post_init__(self) -> None:
        for key in ("dump_seconds", "end_seconds", "grace_seconds"):
            value = getattr(self, key)
            require(value >= 0, f"watchdog.{key}", value, "must be >= 0")
        require(
            self.end_seconds == 0 or self.dump_seconds <= self.end_seconds,
            "watchdog.dump_seconds",
            self.dump_seconds,
            f"must not exceed watchdog.end_seconds={self.end_seconds:g}; 0 never dumps",
        )
