"""A finished classifier's probabilities: corrected, turned into sets with a guarantee, withheld, compared by group.

Everything here takes plain arrays of probabilities or logits and targets. What is fitted is fitted on validation
predictions alone; `visus/run/calibrate.py` brings the arrays of a run.
"""
