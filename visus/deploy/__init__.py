"""What is done to a finished model before it serves: folding, fusing, dense evaluation."""
