"""The demos: a file each, found by its name. A file is its own entry in the list; nothing else names it.

    '''What the demo shows, in a sentence or two.'''
    TOPIC = "convolution"                      # one of visus.run.demo.TOPICS
    SUMMARY = "one line for the list, lower case, no full stop"
    SOURCE = "paper, book or course lecture"
    def make(seed: int, advance: Tell) -> Shown: ...

TOPIC, SUMMARY and SOURCE are plain strings, so that the list is read without running the file. `make` takes everything
random from `seed`, calls advance(done, of) as it goes on, and returns the same page for the same seed: no times of the
clock, no paths. Where it takes seconds, it has a keyword `small: bool = False`, with which the tests run it. Every
number that its words claim is measured in it and stands in a Fact.
"""
