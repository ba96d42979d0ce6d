"""Wrong versions of the lab attention."""

WRONG = [
    ("attention_forward", " / np.sqrt(q.shape[2])", "", "not divided by sqrt(D)"),
    ("attention_forward", "weights = _softmax(scores)", "weights = np.exp(scores) / np.exp(scores).sum(axis=2, "
     "keepdims=True)",
     "overflows"),
    ("attention_backward", " - np.sum(weights * dweights, axis=2, keepdims=True)", "", "sum in the softmax's gradient"),
    ("attention_backward", " / np.sqrt(q.shape[2])", "", "missing on the way back"),
    ("attention_backward", "ds.swapaxes(1, 2) @ q", "ds @ q", "print the .shape of both"),
    ("causal_attention", "np.tril(np.ones((t, t), dtype=bool))", "np.tril(np.ones((t, t), dtype=bool), 1)",
     "off by one"),
    ("causal_attention", "-np.inf", "0", "a score like others"),
    ("multi_head", "attention_forward(*part)[0] for part in parts",
     "attention_forward(part[0] / np.sqrt(heads), *part[1:])[0] for part in parts", "sqrt(D / heads)"),
]
