"""Shoulder exercises from a smartwatch: a 1-D CNN on three seconds of accelerometer and gyroscope."""

from __future__ import annotations

from torch import Tensor, nn


class Watch(nn.Module):
    """Seven exercises from a window (B, 6, 150), sampled at 50 Hz."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(6, 32, 7, stride=2, padding=3),
            nn.GroupNorm(8, 32),
            nn.ReLU(),
            nn.Conv1d(32, 48, 5, stride=2, padding=2),
            nn.GroupNorm(8, 48),
            nn.ReLU(),
            nn.Conv1d(48, 64, 3, padding=1),
            nn.GroupNorm(8, 64),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(64, 7),
        )

    def forward(self, window: Tensor) -> Tensor:
        """Logits (B, 7)."""
        return self.layers(window)  # type: ignore[no-any-return]  # torch's typing
