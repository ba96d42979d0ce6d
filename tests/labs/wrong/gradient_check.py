"""Wrong versions of the lab gradient_check."""

WRONG = [
    ("forward_difference", " / h", "", "not divided by h"),
    ("forward_difference", "        x[i] = old\n", "", "Whoever called it still needs"),
    ("centred_difference", "(2 * h)", "h", "the two points lie 2 h apart"),
    ("centred_difference", "(above - below)", "(below - above)", "the other way round"),
    ("relative_error", "np.max(", "np.mean(", "must not hide among many"),
    ("relative_error", "np.maximum(np.abs(a) + np.abs(b), 1e-8)", "(np.abs(a) + np.abs(b))", "0 is divided by 0"),
    ("relative_error", "np.maximum(np.abs(a) + np.abs(b), 1e-8)", "(np.abs(a) + np.abs(b) + 1e-8)",
     "the least divisor"),
    ("centred_along", "above = f(x).copy()", "above = f(x)", "copy it"),
    ("centred_along", " * dout", "", "dout is left out"),
]
