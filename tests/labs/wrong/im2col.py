"""Wrong versions of the lab im2col."""

WRONG = [
    ("im2col", "    return columns", "    columns = columns.transpose(1, 2, 0, 3, 4, 5)\n    return columns",
     "channels come first"),
    ("im2col", "    return columns", "    columns = columns.transpose(0, 1, 2, 4, 5, 3)\n    return columns",
     "images come first"),
    ("im2col", "columns.reshape(c * kernel * kernel, n * oh * ow)", "columns.reshape(c * kernel * kernel, n * oh * "
     "ow).T",
     "a window is a column"),
    ("col2im", "+= parts", "= parts", "overwrite each other"),
    ("col2im", "padded[:, :, padding:padding + h, padding:padding + w]", "padded", "still padded"),
    ("conv_forward", "out.reshape(f, len(x), oh, ow).transpose(1, 0, 2, 3)", "out.reshape(len(x), f, oh, ow)",
     "does not move the images"),
    ("conv_backward", "rows.sum(axis=1)", "rows.mean(axis=1)", "averaged"),
]
