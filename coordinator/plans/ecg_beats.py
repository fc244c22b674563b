"""Arrhythmia beats: a 1-D CNN on the beat's waveform, joined by the rhythm around it. 18.7 k parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class EcgBeats(nn.Module):
    """Five AAMI classes from a beat (B, 1, 128), sampled at 180 Hz, and six RR features (B, 6).

    Supraventricular beats look like normal ones and come early, so the RR features join after the convolutions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv1d(1, 16, 7, padding=3),
            nn.GroupNorm(4, 16),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.Conv1d(16, 32, 5, padding=2),
            nn.GroupNorm(8, 32),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.Conv1d(32, 64, 5, padding=2),
            nn.GroupNorm(8, 64),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
        )
        self.head = nn.Sequential(nn.Linear(64 + 6, 72), nn.ReLU(), nn.Dropout(0.2), nn.Linear(72, 5))

    def forward(self, signal: Tensor, rr: Tensor) -> Tensor:
        """Logits (B, 5)."""
        return self.head(torch.cat([self.features(signal), rr], dim=1))  # type: ignore[no-any-return]  # torch's typing
