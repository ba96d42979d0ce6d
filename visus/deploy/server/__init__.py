"""Answers over HTTP: a plain POST /predict, the Open Inference Protocol, metrics, and the page."""
