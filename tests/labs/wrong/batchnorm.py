"""Wrong versions of the lab batchnorm."""

WRONG = [
    ("batchnorm_train", "np.sqrt(var + eps)", "np.sqrt(var) + eps", "outside of the root"),
    ("batchnorm_train", "np.mean(centred ** 2, axis=0)", "x.var(axis=0, ddof=1)", "over N - 1"),
    ("batchnorm_train", "x.mean(axis=0)\n    centred = x - mean\n    var = np.mean(centred ** 2, axis=0)",
     "x.mean(axis=1)[:, None]\n    centred = x - mean\n    var = np.mean(centred ** 2, axis=1)[:, None]", "layer norm"),
    ("running_averages", "(1 - momentum) * running_mean + momentum * mean, (1 - momentum) * running_var + momentum * "
     "var",
     "momentum * running_mean + (1 - momentum) * mean, momentum * running_var + (1 - momentum) * var",
     "momentum is swapped"),
    ("running_averages", " * len(x) / (len(x) - 1)", "", "biased one"),
    ("batchnorm_test", "(x - running_mean) / np.sqrt(running_var + eps)",
     "(x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + eps)", "at test time the running ones"),
    ("backward_staged", "dcentred + dmean / n,", "dcentred,", "way through the mean"),
    ("backward_staged", "    dcentred = dcentred + 2 * centred * dvar / n\n", "", "way through the variance"),
    ("backward_staged", "2 * centred * dvar", "centred * dvar", "the factor 2 is missing"),
    ("backward_simplified", "g = dout * gamma", "g = dout", "gamma is left out"),
    ("backward_simplified", " - g.mean(axis=0)", "", "way through the mean"),
    ("backward_simplified", "np.sum(dout * z, axis=0)", "np.mean(dout * z, axis=0)", "dgamma is the mean"),
]
