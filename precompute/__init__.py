"""Offline steps: they write a run folder with `python -m precompute`, which the dashboard reads."""
