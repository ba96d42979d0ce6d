"""CIFAR-10 and CIFAR-100 as published; nothing in their pickles is run."""
