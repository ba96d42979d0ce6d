"""Wrong versions of the lab update_rules."""

WRONG = [
    ("sgd", "    return w - lr * dw", "    w -= lr * dw\n    return w", "Whoever called it still needs"),
    ("sgd", "w - lr", "w + lr", "uphill"),
    ("momentum", "friction * velocity - lr * dw", "friction * velocity + lr * dw", "velocity goes uphill"),
    ("momentum", "velocity - lr * dw", "velocity - (1 - friction) * lr * dw", "weighted by 1 - friction"),
    ("rmsprop", "dw ** 2", "dw", "not squared"),
    ("rmsprop", "(np.sqrt(squares) + eps)", "np.sqrt(squares + eps)", "eps lies below the root"),
    ("rmsprop", "decay * squares + (1 - decay) * dw ** 2", "(1 - decay) * squares + decay * dw ** 2", "are swapped"),
    ("rmsprop", "decay * squares + (1 - decay) * dw ** 2", "squares + dw ** 2", "AdaGrad"),
    ("adam", "mean / (1 - beta1 ** t), squares / (1 - beta2 ** t)", "mean, squares", "correction by 1 - beta^t"),
    ("adam", "** t), squares / (1 - beta2 ** t)", "** (t + 1)), squares / (1 - beta2 ** (t + 1))", "not t + 1"),
    ("adam", "return w - lr * m / (np.sqrt(s) + eps), mean, squares", "return w - lr * m / (np.sqrt(s) + eps), m, s",
     "return them as averaged"),
]
