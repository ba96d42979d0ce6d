"""Nouns that cross walls. Import the submodule you need: some of them load torch, most do not."""
