"""Wrong versions of the lab convolution."""

WRONG = [
    ("output_size", " + 1", "", "+ 1 is missing"),
    ("output_size", "2 * padding", "padding", "padding counts twice"),
    ("output_size", "//", "/", "whole numbers"),
    ("conv_forward", " + b[k]", "", "b is missing"),
    ("conv_forward", "w[k])", "w[k, :, ::-1, ::-1])", "does not flip it"),
    ("conv_forward", "np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))",
     "np.pad(x, ((0, 0), (0, 0), (0, 2 * padding), (0, 2 * padding)))", "only on two sides"),
    ("conv_forward", "i * stride:i * stride + kh, j * stride:j * stride + kw", "i:i + kh, j:j + kw",
     "not at stride * i"),
    ("conv_backward", "dpadded[place] +=", "dpadded[place] =", "overlap"),
    ("conv_backward", "dout.sum(axis=(0, 2, 3))", "dout.mean(axis=(0, 2, 3))", "averaged"),
    ("conv_backward", "dpadded[:, :, padding:padding + x.shape[2], padding:padding + x.shape[3]].copy()", "dpadded",
     "still padded"),
]
