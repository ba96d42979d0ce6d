"""Modules that three or more models use."""
