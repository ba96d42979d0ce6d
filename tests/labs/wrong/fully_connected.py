"""Wrong versions of the lab fully_connected."""

WRONG = [
    ("initialise", "np.sqrt(2 / sizes[i - 1])", "np.sqrt(1 / sizes[i - 1])", "The 2 is missing"),
    ("initialise", "np.sqrt(2 / sizes[i - 1])", "0", "stay equal for ever"),
    ("scores", "        if i < last:\n            x = np.maximum(0, x)", "        x = np.maximum(0, x)",
     "last layer is rectified"),
    ("loss", " * (inputs[i - 1] > 0)", "", "where they were 0"),
    ("loss", "p / len(x)", "p", "not divided by N"),
    ("loss", "0.5 * reg", "reg", "1/2 of the penalty"),
    ("loss", ".T @ d + reg * w", ".T @ d", "lack that of the penalty"),
    ("loss", "d.sum(axis=0)", "d.mean(axis=0)", "too small"),
]
