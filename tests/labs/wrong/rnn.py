"""Wrong versions of the lab rnn."""

WRONG = [
    ("step_forward", "np.tanh(x @ wx + h @ wh + b)", "x @ wx + h @ wh + b", "tanh is missing"),
    ("step_forward", "h @ wh", "h @ wh.T", "wh is transposed"),
    ("step_backward", " * (1 - new ** 2)", "", "slope of tanh is missing"),
    ("step_backward", "(1 - new ** 2)", "new * (1 - new)", "slope of a sigmoid"),
    ("step_backward", "da @ wh.T", "da @ wh", "not with its transpose"),
    ("rnn_forward", "h, cache = step_forward(x[:, t], h,", "h, cache = step_forward(x[:, t], h0,", "begins at h0"),
    ("rnn_forward", "axis=1", "axis=0", "first axis"),
    ("rnn_backward", "dh[:, t] + after", "dh[:, t]", "Each step stands for itself"),
    ("rnn_backward", "grads if total is None else [a + b for a, b in zip(total, grads)]", "grads",
     "add over all steps"),
    ("rnn_backward", "np.stack(dx, axis=1)", "np.stack(dx[::-1], axis=1)", "reverse order"),
]
