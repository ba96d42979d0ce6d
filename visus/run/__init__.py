"""The recipe, how it is built, and the verbs: the one room that knows every room."""
