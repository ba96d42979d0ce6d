"""Losses: functions (prediction, target) -> scalar."""
