"""Handwritten digits: the two-convolution net that federated learning's first examples trained on MNIST."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class Digits(nn.Module):
    """Ten digits from an image (B, 1, 28, 28)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(4 * 4 * 50, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, 10)."""
        hidden = functional.max_pool2d(functional.relu(self.conv1(image)), 2)
        hidden = functional.max_pool2d(functional.relu(self.conv2(hidden)), 2)
        return self.fc2(functional.relu(self.fc1(hidden.flatten(1))))  # type: ignore[no-any-return]  # torch's typing
