"""Checks of the images and their labels, before there is a model."""
