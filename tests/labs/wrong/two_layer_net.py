"""Wrong versions of the lab two_layer_net."""

WRONG = [
    ("scores", "np.maximum(0, x @ params[\"w1\"] + params[\"b1\"])", "x @ params[\"w1\"] + params[\"b1\"]",
     "not rectified"),
    ("loss", " * (hidden > 0)", "", "multiply by hidden > 0"),
    ("loss", "\"w2\": hidden.T @ ds + reg * w2", "\"w2\": before.T @ ds + reg * w2", "before the ReLU"),
    ("loss", "    ds /= len(x)\n", "", "not divided by N"),
    ("loss", "0.5 * reg", "reg", "1/2 of the penalty is missing"),
    ("loss", "ds.sum(axis=0)}", "ds.mean(axis=0)}", "not the mean"),
    ("loss", "x.T @ dhidden + reg * w1", "x.T @ dhidden", "lack that of the penalty"),
    ("loss", "dhidden.sum(axis=0)", "dhidden.sum(axis=1)", "wrong axis"),
    ("train_step", "w - lr", "w + lr", "uphill"),
    ("train_step", "    return {name: w - lr * grads[name] for name, w in params.items()}, value",
     "    for name in params:\n        params[name] -= lr * grads[name]\n    return params, value",
     "Whoever called it still needs"),
]
