"""How much processor time this process, its children and its jails have used."""

import resource
from dataclasses import dataclass

from sandboxes.base import Limits
from sandboxes.bubblewrap import NO_CGROUPS
from sandboxes.cgroups import Cgroups, Leaf, find_cgroups


@dataclass(frozen=True, slots=True, kw_only=True)
class _CountedLeaf(Leaf):
    """Tells what it has used before it goes."""

    used: list[float]

    def remove(self) -> None:
        self.used.append(self.cpu_seconds() or 0.0)
        Leaf.remove(self)


class Meter:
    """The processor time of this process, its children and all jails."""

    def __init__(self) -> None:
        found = find_cgroups()
        self.cgroups = NO_CGROUPS if found is None else found
        self._gone: list[float] = []
        self._living: list[Leaf] = []

    def counted(self) -> Cgroups:
        """Return control groups whose leaves are counted."""
        meter = self

        class Counted(Cgroups):
            def leaf(self, limits: Limits, *, own_processes: int = 1) -> Leaf:
                made = Cgroups.leaf(self, limits, own_processes=own_processes)
                leaf = _CountedLeaf(version=made.version, folders=made.folders, used=meter._gone)
                meter._living.append(leaf)
                return leaf

        return Counted(version=self.cgroups.version, parents=self.cgroups.parents)

    def seconds(self) -> float:
        """Return what has been used until now."""
        self._living = [leaf for leaf in self._living if leaf.cpu_seconds() is not None]
        total = sum(self._gone) + sum(leaf.cpu_seconds() or 0.0 for leaf in self._living)
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
            usage = resource.getrusage(who)
            total += usage.ru_utime + usage.ru_stime
        return total
