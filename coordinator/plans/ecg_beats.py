"""Arrhythmia beats: three layers on what each beat is beside its owner's own rhythm. 2.8 k parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

RHYTHM, SHAPE = 12, 19  # features of ``edge.beats.beat_features``
CLASSES = 5


class EcgBeats(nn.Module):
    """Five AAMI classes from a beat's rhythm (B, 12) and shape (B, 19), both relative to the person's own usual ones.

    There is no convolution on the wave: beside such features one found fewer supraventricular beats the larger it was
    (F1 0.63 without, 0.55 with 16 channels, 0.43 with 32, on patients of DS1 that were held out), since it learns what
    a few patients' beats look like.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Dropout(0.1),
            nn.Linear(RHYTHM + SHAPE, 48),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(48, 24),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(24, CLASSES),
        )

    def forward(self, rhythm: Tensor, shape: Tensor) -> Tensor:
        """Logits (B, 5)."""
        return self.layers(torch.cat([rhythm, shape], dim=1))  # type: ignore[no-any-return]  # torch's typing
