"""Wrong versions of the lab features."""

WRONG = [
    ("hue", " % 6", "", "modulo is missing"),
    ("hue", " / 6", "", "not divided by 6"),
    ("hue", "image[..., 0], image[..., 1], image[..., 2]", "image[..., 2], image[..., 1], image[..., 0]",
     "blue, green, red"),
    ("hue_histogram", " / hues.size", "", "These are counts"),
    ("hue_histogram", ", range=(0, 1)", "", "range=(0, 1)"),
    ("gradients", " % 180", "", "modulo 180"),
    ("gradients", "np.arctan2(gy, gx)", "np.arctan2(gx, gy)", "swapped"),
    ("hog", ", weights=length[place]", "", "counts the pixels"),
    ("hog", "np.zeros((rows, columns, bins))", "np.zeros((rows, columns, bins), dtype=int)", "whole numbers"),
]
