"""What the courses say of vision transformers beside perceptrons and convolutional nets.

All nets see images of 16 x 16 pixels, unaugmented, so that permuted ones are trained in the same way.
"""

from __future__ import annotations

from recipes.experiments.experiment import (
    TRAIN_IMAGES,
    Experiment,
    Lines,
    Results,
    Variation,
    difference,
    percent,
    points,
    score,
)

NETS = {"mlp": "MLP", "cnn": "CNN", "vit": "ViT"}
SHIFTED, SHIFTS, SHIFTED_IMAGES = tuple(NETS), (0, 1, 2, 3, 4), 2_000  # pixels; of the first test images
POSITIONS = {"none": "none", "learned_2d": "learned 2-D", "sincos": "sin-cos", "relative": "relative bias",
             "rotary": "rotary"}
DEPTHS = (1, 2, 4, 8)
SIZES = (1_000, 2_000, 4_000)
EPOCHS = 8  # of the recipes, with TRAIN_IMAGES; fewer images are seen more often, in as many updates


def varied(net: str, name: object) -> str:
    return f"{net}-{name}"


VARIATIONS = {
    **{varied(net, "permuted"): Variation(net, permuted=True) for net in NETS},
    **{varied("vit", name): Variation("vit", {"model.config.positions": name}) for name in POSITIONS},
    **{varied("vit-depth", depth): Variation("vit", {"model.config.depth": depth}) for depth in DEPTHS if depth != 4},
    **{varied(net, size): Variation(net, {"train.epochs": EPOCHS * TRAIN_IMAGES // size,
                                          "schedule.warmup_epochs": TRAIN_IMAGES / size}, images=size)
       for net in ("vit", "cnn") for size in SIZES},
}


def of_depth(depth: int) -> str:
    return "vit" if depth == 4 else varied("vit-depth", depth)


def of_size(net: str, size: int) -> str:
    return net if size == TRAIN_IMAGES else varied(net, size)


def shift_lines(runs: Results) -> Lines:
    return Lines("shifted test images", "pixels", {
        label: [(row["shift"], 100 * row["accuracy"]) for row in runs[net]["seeds"][0]["shifts"]]
        for net, label in NETS.items()})


def judge_built_in(runs: Results) -> tuple[bool, str]:
    drop = {net: difference(runs, varied(net, "permuted"), net, "test") for net in NETS}
    ahead = difference(runs, "cnn", "mlp", "test")
    ahead_permuted = difference(runs, varied("cnn", "permuted"), varied("mlp", "permuted"), "test")
    shown = ahead[0] > ahead[1] and ahead_permuted[0] <= ahead_permuted[1] and abs(drop["mlp"][0]) <= drop["mlp"][1]
    text = "One fixed permutation of the pixels, in training and test images alike, changes the test accuracy of " + \
        ", ".join(f"the {label} by {points(drop[net])}" for net, label in NETS.items())
    text += f". As they are, the CNN is {points(ahead)} ahead of the MLP, permuted {points(ahead_permuted)}."
    if drop["cnn"][0] < drop["vit"][0] < drop["mlp"][0]:
        text += " The ViT lies between the two"
        text += " (its loss is within the noise)." if abs(drop["vit"][0]) <= drop["vit"][1] else "."
    lines = {net: dict(line) for net, line in zip(NETS, shift_lines(runs).series.values(), strict=True)}
    far = max(SHIFTS)
    text += f" Test images that are shifted by {far} of 16 pixels: " + ", ".join(
        f"{label} {lines[net][0]:.1f} to {lines[net][far]:.1f} %" for net, label in NETS.items())
    text += f"; the {NETS[min(NETS, key=lambda net: lines[net][0] - lines[net][far])]} loses least."
    return shown, text


def judge_positions(runs: Results) -> tuple[bool, str]:
    names = {"vit": "learned", **{varied("vit", name): label for name, label in POSITIONS.items() if name != "none"}}
    gains = {name: difference(runs, name, "vit-none", "test") for name in names}
    best, worst = (pick(names, key=lambda name: gains[name][0]) for pick in (max, min))
    shown = all(gap[0] > gap[1] for gap in gains.values())
    among = difference(runs, best, worst, "test")
    text = f"Without positions the ViT reaches {percent(runs['vit-none'], 'test')}: to it an image is a bag of 16 " \
        "patches, the order inside of each is all that it knows. Against that, " + \
        ", ".join(f"{label} {points(gains[name])}" for name, label in names.items()) + "."
    if shown:
        text += f" Between the best and the worst of them lie {points(among)}."
    else:
        text += " After so short a training the nets have learnt little more than a bag of patches tells."
    return shown, text


def judge_vit_depth(runs: Results) -> tuple[bool, str]:
    steps = [(a, b, difference(runs, of_depth(b), of_depth(a), "test"))
             for a, b in zip(DEPTHS, DEPTHS[1:], strict=False)]
    whole = difference(runs, of_depth(DEPTHS[-1]), of_depth(DEPTHS[0]), "test")
    fit = difference(runs, of_depth(DEPTHS[-1]), of_depth(DEPTHS[0]), "train")
    text = "On the test images, " + ", ".join(f"from {a} to {b} blocks {points(gap)}" for a, b, gap in steps) + \
        f"; from {DEPTHS[0]} to {DEPTHS[-1]} {points(whole)}, on the training images {points(fit)}."
    if whole[0] <= whole[1] < fit[0]:
        text += " Depth is spent on fitting: with so few images it does not carry over."
    return whole[0] > whole[1], text


def size_lines(runs: Results) -> Lines:
    def line(net: str) -> list[tuple[float, float]]:
        found = [(size, score(runs[of_size(net, size)], "test")) for size in (*SIZES, TRAIN_IMAGES)]
        return [(size, one.value) for size, one in found if one is not None]

    return Lines("test images", "training images", {"CNN": line("cnn"), "ViT": line("vit")}, log=True)


def judge_data(runs: Results) -> tuple[bool, str]:
    sizes = (*SIZES, TRAIN_IMAGES)
    gaps = {size: difference(runs, of_size("vit", size), of_size("cnn", size), "test") for size in sizes}
    few, many = gaps[sizes[0]], gaps[sizes[-1]]
    gains = {net: difference(runs, net, of_size(net, sizes[0]), "test") for net in ("vit", "cnn")}
    text = "After equal numbers of updates the ViT stands against the CNN at " + \
        ", ".join(f"{points(gap)} with {size:,} images" for size, gap in gaps.items()) + \
        f". Eightfold data bring the ViT {points(gains['vit'])} and the CNN {points(gains['cnn'])}."
    closing = many[0] - few[0] > (few[1]**2 + many[1]**2) ** 0.5
    if not closing:
        text += " The gap does not close in this range: in the paper ViTs draw level beyond ten million images."
    fit = difference(runs, "vit", "cnn", "train")
    if fit[0] < -fit[1]:
        text += f" Here the ViT does not even fit its {TRAIN_IMAGES:,} images ({percent(runs['vit'], 'train')}, the " \
            f"CNN {percent(runs['cnn'], 'train')}): it wants more updates before it wants more images."
    return closing, text


EXPERIMENTS = {
    "built_in": Experiment(
        "Built in or learnt: MLP, CNN and ViT",
        "A CNN has it built in that neighbours belong together and are the same everywhere; an MLP has neither, a ViT "
        "knows patches and learns the rest. Permuting the pixels takes the CNN's advantage away and leaves the MLP "
        "alone",
        (("as they are", NETS), ("permuted", {varied(net, "permuted"): label for net, label in NETS.items()})),
        judge_built_in, shift_lines),
    "positions": Experiment(
        "Position encodings of a ViT",
        "Any encoding of the position is better than none, and which one matters little (Dosovitskiy et al. 2021, "
        "appendix D.4)",
        (("none and learned", {"vit-none": "none", "vit": "learned", "vit-learned_2d": POSITIONS["learned_2d"]}),
         ("fixed, relative, rotary", {varied("vit", name): POSITIONS[name] for name in ("sincos", "relative",
                                                                                        "rotary")})),
        judge_positions),
    "vit_depth": Experiment(
        "Depth of a ViT", "Deeper ViTs are better (Dosovitskiy et al. 2021, appendix D.2)",
        (("shallow", {of_depth(1): "1 block", of_depth(2): "2 blocks"}),
         ("deep", {of_depth(4): "4 blocks", of_depth(8): "8 blocks"})), judge_vit_depth),
    "data_size": Experiment(
        "ViT and CNN by the number of images",
        "With few images a CNN is ahead of a ViT, and data close the gap (Dosovitskiy et al. 2021, section 4.3)",
        tuple((f"{size:,} images", {of_size("cnn", size): "CNN", of_size("vit", size): "ViT"})
              for size in (*SIZES, TRAIN_IMAGES)), judge_data, size_lines),
}  # fmt: skip
