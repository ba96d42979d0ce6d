"""Diagnoses from the curves of a run."""
