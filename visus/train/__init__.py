"""The one training loop: steps, precision, accumulation, clipping, averaging, checkpoints, resume. No images here."""
