"""What the courses say of deep convolutional nets."""

from __future__ import annotations

import math

from recipes.experiments.experiment import Experiment, Results, difference, percent, points


def judge_depth(runs: Results) -> tuple[bool, str]:
    plain, residual = (difference(runs, f"{kind}56", f"{kind}20", "train") for kind in ("plain", "resnet"))
    late = difference(runs, "resnet56", "resnet20", "test")
    shown = plain[0] < -plain[1] and residual[0] - plain[0] > math.hypot(residual[1], plain[1])
    reach = {name: percent(runs[name], "train") for name in ("plain20", "plain56", "resnet20", "resnet56")}
    text = (f"On the images that they are trained on, 20 plain layers reach {reach['plain20']} and 56 layers "
            f"{reach['plain56']} ({points(plain)}); with shortcuts it is {reach['resnet20']} and {reach['resnet56']} "
            f"({points(residual)}).")
    if shown:
        text += " It is not overfitting that holds the deep plain net back: it does not even fit."
    if late[0] <= late[1]:
        text += (f" The deeper residual net is not yet better on the test images ({points(late)}): the paper trains "
                 "for 164 epochs.")
    return shown, text


def judge_shortcuts(runs: Results) -> tuple[bool, str]:
    gap = difference(runs, "resnet20-b", "resnet20", "test")
    added = runs["resnet20-b"]["params"] - runs["resnet20"]["params"]
    return gap[0] > gap[1], f"B against A: {points(gap)} on the test images, for {added:,} more parameters."


def judge_norm(runs: Results) -> tuple[bool, str]:
    low, high = (difference(runs, f"vgg11-bn-{rate}", f"vgg11-{rate}", "test") for rate in ("low", "high"))
    rate = difference(runs, "vgg11-bn-high", "vgg11-bn-low", "test")
    text = (f"Batch norm changes the test accuracy by {points(low)} at the low rate and by {points(high)} at the "
            f"tenfold one, where the net without it ends at {percent(runs['vgg11-high'], 'test')}.")
    if rate[0] < -rate[1]:
        text += f" The tenfold rate is too high for the net with it as well ({points(rate)}), but it still learns."
    return low[0] > low[1] and high[0] > high[1], text


def judge_separable(runs: Results) -> tuple[bool, str]:
    light, full = runs["mobilenet"], runs["mobilenet-full"]
    fit, gap = (difference(runs, "mobilenet", "mobilenet-full", split) for split in ("train", "test"))
    text = (f"The saving is exact: a pair costs 1/C + 1/9 of the full convolution to C channels, and the whole net "
            f"{light['macs'] / 1e6:.2f} M against {full['macs'] / 1e6:.2f} M multiply-accumulates "
            f"({full['macs'] / light['macs']:.1f} times) and {light['params'] / 1e6:.2f} M against "
            f"{full['params'] / 1e6:.2f} M parameters. After equal epochs its test accuracy is at {points(gap)}; the "
            "paper loses 1.1 on ImageNet (Table 4).")
    if fit[0] < -fit[1]:
        text += f" Its training images are at {points(fit)} too: with so few updates and channels it fits less."
    return gap[0] > -2.0, text


def judge_survival(runs: Results) -> tuple[bool, str]:
    fit, gap = (difference(runs, "resnet56-survival", "resnet56", split) for split in ("train", "test"))
    text = (f"Dropping blocks changes the accuracy by {points(fit)} on the training images and by {points(gap)} on the "
            "test images.")
    if gap[0] <= gap[1]:
        text += " It is a regulariser: the paper trains for 500 epochs, until the net fits its images perfectly."
    return gap[0] > gap[1], text


EXPERIMENTS = {
    "depth": Experiment(
        "Plain and residual nets of 20 and 56 layers",
        "Deeper plain nets are worse even on their training images; shortcuts remove that (He et al. 2016, Fig. 6)",
        (("plain", {"plain20": "20 layers", "plain56": "56 layers"}),
         ("residual", {"resnet20": "20 layers", "resnet56": "56 layers"})), judge_depth),
    "shortcuts": Experiment(
        "Shortcuts without and with parameters", "Projections (B) are slightly better than zero-padding (A) (He et al. "
        "2016, Table 3)", (("ResNet-20", {"resnet20": "A: zeros", "resnet20-b": "B: projection"}),), judge_shortcuts),
    "norm": Experiment(
        "Batch norm at two learning rates",
        "Batch norm trains faster and admits learning rates at which the net without it fails (Ioffe, Szegedy 2015)",
        (("lr 0.01", {"vgg11-low": "without", "vgg11-bn-low": "batch norm"}),
         ("lr 0.1", {"vgg11-high": "without", "vgg11-bn-high": "batch norm"})), judge_norm),
    "separable": Experiment(
        "Depthwise-separable and full convolutions",
        "Filtering by channel and then mixing costs 1/C + 1/9 of a full 3 x 3 convolution and little accuracy (Howard "
        "et al. 2017)", (("MobileNet x 0.25", {"mobilenet": "separable", "mobilenet-full": "full 3 x 3"}),),
        judge_separable),
    "survival": Experiment(
        "Stochastic depth",
        "Dropping blocks at random in training makes deep residual nets more accurate (Huang et al. 2016)",
        (("ResNet-56", {"resnet56": "all blocks", "resnet56-survival": "p_L = 0.5"}),), judge_survival),
}  # fmt: skip
