"""What a step does to parameters, given their gradient: pure rules over one device's vector or many devices' rows.

A rule remembers nothing itself. What goes from step to step lies in vectors beside the parameters, so that a training
can be checkpointed, and taken into a stack and out of it, between any two steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import torch
from torch import Tensor

from schemas.messages import TrainSettings


class Optimiser(Protocol):
    """Changes parameters (P,) or (n, P) by their gradient, float32 of the same shape, in place.

    It may change the gradient too, which has weight decay in it where there is some. ``memory`` are the vectors it
    remembers, of the parameters' shape, zeros at first; ``steps`` tells how many steps each row has had, this one
    included.
    """

    def vectors(self, settings: TrainSettings) -> int:
        """How many vectors it remembers."""

    def step(
        self,
        settings: TrainSettings,
        parameters: Tensor,
        gradient: Tensor,
        memory: Sequence[Tensor],
        steps: Sequence[int],
    ) -> None:
        """One step."""


class Sgd:
    """Stochastic gradient descent with momentum; the same numbers as ``torch.optim.SGD``."""

    def vectors(self, settings: TrainSettings) -> int:
        """The velocity, where there is momentum."""
        return 1 if settings.momentum else 0

    def step(
        self,
        settings: TrainSettings,
        parameters: Tensor,
        gradient: Tensor,
        memory: Sequence[Tensor],
        steps: Sequence[int],  # noqa: ARG002 - no step depends on them
    ) -> None:
        """One step."""
        if settings.momentum:
            gradient = memory[0].mul_(settings.momentum).add_(gradient)
        parameters.add_(gradient, alpha=-settings.learning_rate)


class Adam:
    """Adam (Kingma and Ba 2015) with betas 0.9 and 0.999; the same numbers as ``torch.optim.Adam``."""

    BETAS: Final = (0.9, 0.999)
    EPSILON: Final = 1e-8

    def vectors(self, settings: TrainSettings) -> int:  # noqa: ARG002 - whatever they are
        """The first two moments."""
        return 2

    def step(
        self,
        settings: TrainSettings,
        parameters: Tensor,
        gradient: Tensor,
        memory: Sequence[Tensor],
        steps: Sequence[int],
    ) -> None:
        """One step."""
        first, second = self.BETAS
        mean, square = memory
        mean.lerp_(gradient, 1 - first)
        square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        rate, scale = (
            torch.tensor(column, dtype=torch.float32, device=parameters.device).view(-1, *[1] * (parameters.ndim - 1))
            for column in zip(
                *((settings.learning_rate / (1 - first**n), (1 - second**n) ** -0.5) for n in steps), strict=True
            )
        )
        parameters.sub_(mean / square.sqrt().mul_(scale).add_(self.EPSILON) * rate)


OPTIMISERS: Final[dict[str, Optimiser]] = {"sgd": Sgd(), "adam": Adam()}
