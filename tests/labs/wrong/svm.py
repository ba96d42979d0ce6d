"""Wrong versions of the lab svm: (function, its text, what stands there instead, words of the
diagnosis)."""

WRONG = [
    ("svm_loss_naive", "return loss / len(x) + reg", "return loss + reg", "not divided by their number"),
    ("svm_loss_naive", "            if j == labels[i]:\n                continue\n", "", "right class takes part"),
    ("svm_loss_naive", "                dw[:, labels[i]] -= x[i]\n", "", "gradient of the right class is missing"),
    ("svm_loss_naive", "dw / len(x)", "dw", "not divided by N as the loss"),
    ("svm_loss", "x.T @ active / len(x) + 2 * reg * w", "x.T @ active / len(x) + reg * w", "lacks its factor 2"),
    ("svm_loss", "x.T @ active / len(x) + 2 * reg * w", "x.T @ active / len(x)", "lacks that of the penalty"),
    ("svm_loss", "+ 1)\n    margins", ")\n    margins", "margin is left out"),
    ("svm_loss", "-active.sum(axis=1)", "-1 * (active.sum(axis=1) > 0)", "once for every margin"),
    ("svm_loss", "    loss = margins", "    x += 0.1\n    loss = margins", "Whoever called it still needs"),
    ("svm_loss", "    scores = x @ w\n    margins", "    scores = x @ w.T\n    margins", "print the .shape of both"),
    ("svm_loss", "def svm_loss(w, x, labels, reg):\n", "def svm_loss(w, x, labels, reg):\n    return "
     "svm_loss_naive(w, x, labels,"
     " reg)\n", "A Python loop is left"),
    ("predict", "axis=1", "axis=0", "over images"),
    ("sgd_step", "w - lr * dw", "w + lr * dw", "uphill"),
    ("sgd_step", "    return w - lr * dw, loss", "    w -= lr * dw\n    return w, loss", "Whoever called it still "
     "needs"),
]
