"""Wrong versions of the lab convnet."""

WRONG = [
    ("parameter_shapes", "(side // 2) * (side // 2)", "side * side", "as if nothing was pooled"),
    ("parameter_shapes", "(side // 2) * (side // 2)", "(side // 2) * side", "only one side was halved"),
    ("scores", "_forward(params, x)[0]", "_forward(params, x)[0].T", "transposed"),
    ("loss", "    d = relu_backward(d, second)\n", "", "behind the first affine layer"),
    ("loss", "    d = relu_backward(d, relu)\n", "", "behind the convolution"),
    ("loss", "0.5 * reg", "reg", "1/2 of the penalty"),
    ("loss", "grads[name] + reg * params[name]", "grads[name]", "lack that of the penalty"),
    ("loss", "(\"w1\", \"w2\", \"w3\")", "(\"w2\", \"w3\")", "filters w1 are not penalised"),
    ("loss", "affine_backward(d, top)", "affine_backward(d * len(x), top)", "not divided by N"),
]
