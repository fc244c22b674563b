"""A plan and examples become a delta, or counts: pure, over PyTorch."""
