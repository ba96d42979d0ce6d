"""Wrong versions of the lab spatial_batchnorm."""

WRONG = [
    ("spatial_forward", "(0, 2, 3)", "(2, 3)", "over places only"),
    ("spatial_forward", "    z, std = _normalise(x, (0, 2, 3), eps)\n    return gamma[:, None, None] * z + beta[:, "
     "None, None],",
     "    rows = x.reshape(-1, x.shape[1])\n    z, std = _normalise(rows, 0, eps)\n"
     "    return (gamma * z + beta).reshape(x.shape),", "A reshape does not move the channels"),
    ("spatial_backward", "dout.sum(axis=(0, 2, 3))", "dout.sum(axis=0)", "over places too"),
    ("spatial_backward", "dx = _back(dout * gamma[:, None, None], z, std, (0, 2, 3))",
     "dx = dout * gamma[:, None, None] / std", "Only the direct way"),
    ("layernorm_forward", "(x, 1, eps)", "(x, 0, eps)", "that is batch norm"),
    ("layernorm_backward", "z, std, 1)", "z, std, 0)", "over features here"),
    ("layernorm_backward", "dout.sum(axis=0)", "dout.sum(axis=1)", "sum over rows"),
    ("groupnorm_forward", "(2, 3, 4)", "(3, 4)", "instance norm"),
    ("groupnorm_forward", "(n, groups, c // groups, h, w)", "(n, c // groups, groups, h, w)",
     "C / groups channels each"),
]
