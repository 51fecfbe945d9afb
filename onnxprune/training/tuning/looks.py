"""When held-out samples are looked at: some times in a run, and for a small part of its time."""

from __future__ import annotations

from dataclasses import dataclass

MOST = 20  # times in a run
_FEWEST = 2
_JUDGING = 0.1  # of the time of a run that looking may take


@dataclass
class Looks:
    """The looks of a run.

    Args:
        steps: of the run; 0 where its length is a time.
        times: that are looked at, about.
    """

    steps: int
    times: float = MOST
    _due: float = 0.0  # share of the run at which the next one comes, where its length is a time

    @property
    def every(self) -> int:
        """Steps between two looks, where their number is known."""
        return max(1, -(-self.steps // int(self.times)))

    @property
    def count(self) -> float:
        """How many there are in a run."""
        return self.steps / self.every if self.steps else self.times

    def limit_to(self, share: float) -> None:
        """Let them be so few that they take a small part of the run, when each takes a share of its time."""
        self.times = max(_FEWEST, min(MOST, _JUDGING / max(1e-9, share)))

    def go_on(self, progressed: float) -> None:
        """Let the next one come some time from here on, where a share of the run is done."""
        self._due = progressed + 1 / self.times

    def is_due(self, step: int, progressed: float) -> bool:
        """Whether it is time for one, after a step and at a share of the run."""
        return progressed >= 1 or (step % self.every == 0 if self.steps else progressed >= self._due)
