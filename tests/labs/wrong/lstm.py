"""Wrong versions of the lab lstm."""

WRONG = [
    ("sigmoid", "    e = np.exp(-np.abs(x))\n    return np.where(x >= 0, 1, e) / (1 + e)",
     "    return np.exp(x) / (1 + np.exp(x))", "overflows"),
    ("step_forward", "i, f, g, o = np.split", "i, f, o, g = np.split", "order i, f, o, g"),
    ("step_forward", "np.tanh(g)", "sigmoid(g)", "not a sigmoid"),
    ("step_forward", "o * squashed, new", "o * new, new", "tanh of the cell is missing"),
    ("step_backward", "    dc = dc + dh * o * (1 - squashed ** 2)\n", "", "way through h'"),
    ("step_backward", "dc = dc + dh", "dc = dh", "arrives from the next step"),
    ("step_backward", "(1 - g ** 2)", "g * (1 - g)", "slope of tanh, 1 - g^2"),
    ("step_backward", "dc * f, x.T", "dc, x.T", "lacks the forget gate"),
]
