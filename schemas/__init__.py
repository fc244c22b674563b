"""What both ends must agree on to talk, and nothing else."""
