"""Wrong versions of the lab dropout."""

WRONG = [
    ("dropout_train", " / keep", " * 1.0", "not scaled"),
    ("dropout_train", "< keep", "> keep", "probability to drop"),
    ("dropout_train", "(rng.random(x.shape) < keep)", "(rng.random((len(x), *(1,) * (x.ndim - 1))) < keep)",
     "Whole rows are dropped"),
    ("dropout_test", "return x", "return x * keep", "done that in training"),
    ("dropout_backward", "dout * cache[0]", "dout * 1.0", "dropped units hand"),
    ("dropout_backward", "dout * cache[0]", "dout * (cache[0] > 0)", "masked but not scaled"),
]
