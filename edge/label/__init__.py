"""Beats labelled by a person at a terminal, key by key."""
