"""Rules over the steps of a training that runs."""
