"""Baselines and multi-layer perceptrons."""
