"""Networks that make pictures."""
