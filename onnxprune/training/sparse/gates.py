"""Learned masks: a gate on each unit, open or shut, trained with the weights until a budget is kept.

Hard concrete gates of Louizos et al. 2018, Learning Sparse Neural Networks through L0 Regularization, equations 10 to
12; the budget by a Lagrangian with a quadratic term, as Xia et al. 2023, Sheared LLaMA, equations 1 and 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

Tensor = torch.Tensor
TEMPERATURE, LOWEST, HIGHEST = 2 / 3, -0.1, 1.1  # beta, gamma and zeta of the paper
OPEN = 2.5  # where log alpha begins: 92 % of a gate's samples are more than half open
_EPSILON = 1e-6
Cost = Callable[[Mapping[str, float]], tuple[float, Mapping[str, float]]]


class Gates(torch.nn.Module):
    """Gates for the units of groups, by the name of the group."""

    def __init__(self, counts: Mapping[str, int], *, device: torch.device | str = "cpu") -> None:
        """Open all gates.

        Args:
            counts: units of each group.
            device: where they are.
        """
        super().__init__()
        self.names = tuple(counts)
        self.log_alpha = torch.nn.ParameterList(
            torch.nn.Parameter(torch.full((count,), OPEN, device=device)) for count in counts.values()
        )

    def sampled(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return one draw of every gate, ``[units]`` in 0 to 1."""
        return {name: self._draw(alpha, generator) for name, alpha in zip(self.names, self.log_alpha, strict=True)}

    def fixed(self) -> dict[str, Tensor]:
        """Return the gates without chance, as they are used after training."""
        return {name: _stretched(torch.sigmoid(alpha)) for name, alpha in zip(self.names, self.log_alpha, strict=True)}

    def expected(self) -> dict[str, Tensor]:
        """Return of each group the expected number of units whose gate is not shut."""
        shut = TEMPERATURE * math.log(-LOWEST / HIGHEST)
        return {name: torch.sigmoid(alpha - shut).sum() for name, alpha in zip(self.names, self.log_alpha, strict=True)}

    def scores(self) -> dict[str, Tensor]:
        """Return how open each unit's gate is, for ranking units within a group."""
        return {name: alpha.detach().clone() for name, alpha in zip(self.names, self.log_alpha, strict=True)}

    @staticmethod
    def _draw(alpha: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.rand(alpha.shape, generator=generator).to(alpha.device).clamp(_EPSILON, 1 - _EPSILON)
        return _stretched(torch.sigmoid((noise.log() - (1 - noise).log() + alpha) / TEMPERATURE))


def _stretched(share: Tensor) -> Tensor:
    return torch.clamp(share * (HIGHEST - LOWEST) + LOWEST, 0, 1)


class Budget(Protocol):
    """What the gates must keep, as equalities that a Lagrangian holds."""

    @property
    def equalities(self) -> int:
        """How many there are."""

    def violations(self, expected: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return by how much each equality is missed, as a fraction of the original, ``[equalities]``.

        Args:
            expected: units that are kept, by group.
            progress: 0 to 1; the budget tightens from the original to what is wanted.
        """


@dataclass(frozen=True)
class CostBudget:
    """A cost as a fraction of the original: MACs or parameters."""

    cost: Cost  # units that are kept, by group -> the fraction, and how it grows with each group's units
    fraction: float

    @property
    def equalities(self) -> int:
        """One."""
        return 1

    def violations(self, expected: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the fraction over what is wanted by now; its gradient is that of a plan near the expected one."""
        value, slopes = self.cost({name: kept.item() for name, kept in expected.items()})
        change = torch.stack(
            [slope * (expected[name] - expected[name].detach()) for name, slope in slopes.items()]
        ).sum()
        return torch.reshape(change + value - (1 + progress * (self.fraction - 1)), (1,))


@dataclass(frozen=True)
class ShapeBudget:
    """A target shape: how many units each group keeps."""

    whole: Mapping[str, int]  # units of the original, by group
    kept: Mapping[str, int]  # of the result

    @property
    def equalities(self) -> int:
        """One a group."""
        return len(self.kept)

    def violations(self, expected: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return, for each group, the share of its units over what is wanted by now."""
        rows = []
        for name, kept in self.kept.items():
            wanted = self.whole[name] + progress * (kept - self.whole[name])
            rows.append((expected[name] - wanted) / self.whole[name])
        return torch.stack(rows)


@dataclass(frozen=True)
class Budgets:
    """Several budgets at once."""

    parts: Sequence[Budget]

    @property
    def equalities(self) -> int:
        """Those of all."""
        return sum(part.equalities for part in self.parts)

    def violations(self, expected: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return by how much each is missed."""
        return torch.cat([part.violations(expected, progress) for part in self.parts])


class Multipliers(torch.nn.Module):
    """The factors of the Lagrangian; they grow while the budget is missed."""

    def __init__(self, count: int, *, device: torch.device | str = "cpu") -> None:
        """Begin at zero."""
        super().__init__()
        self.linear = torch.nn.Parameter(torch.zeros(count, device=device))
        self.quadratic = torch.nn.Parameter(torch.zeros(count, device=device))

    def penalty(self, violations: Tensor) -> Tensor:
        """Return what is added to the loss; gradients of the factors are to be ascended."""
        return (self.linear * violations + self.quadratic * violations.square()).sum()
