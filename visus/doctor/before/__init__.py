"""Checks of a model before it is trained: one pass, or a few hundred on one batch."""
