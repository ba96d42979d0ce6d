"""Metrics: update / compute / reset while a model runs, and whole evaluations of finished predictions."""
