"""Wrong versions of the lab layers."""

WRONG = [
    ("affine_forward", "x.reshape(len(x), -1) @ w + b", "x.reshape(len(x), -1) @ w", "b is missing"),
    ("affine_backward", ".reshape(x.shape)", "", "stays flattened"),
    ("affine_backward", "dout.sum(axis=0)", "dout.mean(axis=0)", "not their mean"),
    ("affine_backward", "dout.sum(axis=0)", "dout", "db is dout itself"),
    ("affine_backward", "x.reshape(len(x), -1).T @ dout", "dout.T @ x.reshape(len(x), -1)", "x^T dout"),
    ("relu_forward", "    return", "    x[x < 0] = 0\n    return", "Whoever called it still needs"),
    ("relu_backward", "> 0", "< 0", "multiply by x > 0"),
    ("relu_backward", "dout * (cache[0] > 0)", "np.maximum(dout, 0)", "rectified, not masked"),
    ("relu_backward", "dout * (cache[0] > 0)", "dout", "goes through everywhere"),
    ("affine_relu_forward", "return out, (first", "return a, (first", "ReLU is missing"),
    ("affine_relu_backward", "relu_backward(dout, second)", "dout", "ReLU's backward is missing"),
]
