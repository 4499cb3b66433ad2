"""Benchmarks: each prints its figures as ratios to a plain-PyTorch floor measured in the same run."""
