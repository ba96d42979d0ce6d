"""The courses' assignments as exercises that check themselves.

A lab is two files of one name: exercises/NAME.py, the file that a person gets, with functions whose bodies are to be
written, and checks/NAME.py, which says what each function must give and which mistakes are typical. The verb is
`visus lab`: visus/run/lab.py. A lab is added by adding its two files; `tests/labs` asks for its solution and its wrong
versions.
"""

from __future__ import annotations


class NotWritten(Exception):
    """Raised by a function of an exercise whose body is still to be written."""
