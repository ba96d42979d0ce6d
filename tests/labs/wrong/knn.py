"""Wrong versions of the lab knn."""

WRONG = [
    ("distances_two_loops", "np.sqrt(np.sum((x[i] - train[j]) ** 2))", "np.sum((x[i] - train[j]) ** 2)",
     "square root is missing"),
    ("distances_two_loops", "np.sqrt(np.sum((x[i] - train[j]) ** 2))", "np.sum(np.abs(x[i] - train[j]))",
     "L1 distance"),
    ("distances_two_loops", "range(len(train))", "range(len(train) - 1)", "ends too early"),
    ("distances_two_loops", "np.zeros((len(x), len(train)))", "np.zeros((len(x), len(train)), dtype=int)",
     "whole numbers"),
    ("distances_one_loop", "axis=1", "axis=0", "print the .shape of both"),
    ("distances_no_loop", "- 2 * x @ train.T", "- x @ train.T", "has the factor 2"),
    ("distances_no_loop", "np.sum(x * x, axis=1)[:, None] - 2", "-2", "squares of the images x are missing"),
    ("distances_no_loop", "    return", "    return distances_one_loop(x, train)\n    return", "A Python loop is left"),
    ("vote", "[:k]", "[-k:]", "farthest images"),
    ("vote", "np.argmax(np.bincount(labels[np.argsort(row)[:k]]))",
     "(lambda c: len(c) - 1 - np.argmax(c[::-1]))(np.bincount(labels[np.argsort(row)[:k]]))", "the largest number"),
    ("vote", "dtype=int", "dtype=float", "indices and sizes are whole numbers"),
    ("cross_validate", "train = np.concatenate(xs[:f] + xs[f + 1:])\n        known = np.concatenate(ys[:f] + ys[f + "
     "1:])",
     "train, known = x, labels", "among the training images too"),
    ("cross_validate", "    return out", "    return out.T", "transposed"),
]
