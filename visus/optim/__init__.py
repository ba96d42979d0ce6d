"""Optimizers, parameter groups, schedules, clipping, averaging of weights."""
