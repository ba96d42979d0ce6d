"""Wrong versions of the lab softmax."""

WRONG = [
    ("probabilities", "scores - np.max(scores, axis=1, keepdims=True)", "scores", "overflows"),
    ("probabilities", "    return e / np.sum(e, axis=1, keepdims=True)", "    return e", "not divided by the sum"),
    ("softmax_loss_naive", " - (j == labels[i])", "", "p - y"),
    ("softmax_loss_naive", "loss / len(x)", "loss", "not divided by their number"),
    ("softmax_loss", "    s = s - s.max(axis=1, keepdims=True)\n", "", "overflows"),
    ("softmax_loss", "2 * reg * w", "reg * w", "lacks its factor 2"),
    ("softmax_loss", "x.T @ ds / len(x)", "x.T @ ds", "not divided by N as the loss"),
    ("softmax_loss", "-log_p[rows, labels].mean()", "log_p[rows, labels].mean()", "wrong sign"),
    ("predict", "axis=1", "axis=0", "over images"),
]
