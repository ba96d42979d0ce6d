"""Deep learning by hand in NumPy: to be read as a textbook, and used by the tests as an oracle for the torch code."""
