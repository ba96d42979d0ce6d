"""The solution of the lab features."""

import numpy as np

LAB = "features"


def hue(image):
    r, g, b = image[..., 0], image[..., 1], image[..., 2]
    most, least = image.max(axis=2), image.min(axis=2)
    spread = np.where(most == least, 1, most - least)
    red = ((g - b) / spread) % 6
    green = (b - r) / spread + 2
    blue = (r - g) / spread + 4
    h = np.where(most == r, red, np.where(most == g, green, blue)) / 6
    return np.where(most == least, 0.0, h)


def hue_histogram(hues, bins):
    counts, _ = np.histogram(hues, bins=bins, range=(0, 1))
    return counts / hues.size


def gradients(grey):
    gx, gy = np.zeros_like(grey), np.zeros_like(grey)
    gx[:, 1:-1] = grey[:, 2:] - grey[:, :-2]
    gy[1:-1, :] = grey[2:, :] - grey[:-2, :]
    return np.sqrt(gx ** 2 + gy ** 2), np.degrees(np.arctan2(gy, gx)) % 180


def hog(grey, cell, bins):
    length, direction = gradients(grey)
    rows, columns = grey.shape[0] // cell, grey.shape[1] // cell
    out = np.zeros((rows, columns, bins))
    for i in range(rows):
        for j in range(columns):
            place = (slice(i * cell, (i + 1) * cell), slice(j * cell, (j + 1) * cell))
            out[i, j] = np.histogram(direction[place], bins=bins, range=(0, 180), weights=length[place])[0]
    return out
