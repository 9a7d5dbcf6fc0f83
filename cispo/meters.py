"""Reads the meters of several parts as one (stdlib only)."""

import asyncio

from cispo.ports import Meter
from cispo.types import Metrics


class Meters:
    """A `Meter` that returns what all of its meters do."""

    def __init__(self, *meters: Meter) -> None:
        """Take the meters; no two count under the same name."""
        self._meters = meters

    async def lap(self) -> Metrics:
        """Read all at once."""
        laps = await asyncio.gather(*(meter.lap() for meter in self._meters))
        return {name: value for lap in laps for name, value in lap.items()}
