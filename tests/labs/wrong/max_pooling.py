"""Wrong versions of the lab max_pooling."""

WRONG = [
    ("max_pool_forward", ".max(axis", ".mean(axis", "not the largest"),
    ("max_pool_forward", "= x[:, :, top:top + size, left:left + size].max(axis=(2, 3))",
     "= np.maximum(0, x[:, :, top:top + size, left:left + size].max(axis=(2, 3)))", "begins at 0"),
    ("max_pool_backward", "        p, q = np.unravel_index(window.argmax(), window.shape)\n        dx[n, c, i * "
     "stride + p, "
     "j * stride + q] += dout[n, c, i, j]", "        best = window == window.max()\n        dx[n, c, i * stride:i * "
     "stride "
     "+ size, j * stride:j * stride + size] += best * dout[n, c, i, j] / best.sum()", "is shared"),
    ("max_pool_backward", "+= dout", "= dout", "collects both"),
    ("max_pool_fast", "(n, c, h // size, size, w // size, size).max(axis=(3, 5))",
     "(n, c, size, h // size, size, w // size).max(axis=(2, 4))", "wrong order"),
]
