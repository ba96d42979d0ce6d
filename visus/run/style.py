"""Networks that paint, enlarge or make textures in one pass: trained against a classifier's features, then applied.

The loss of each is Johnson et al., ECCV 2016 (style, super-resolution) or Ulyanov et al., ICML 2016 (textures); the
networks are in `visus.models.generate.style_net`. A trained one is a single safetensors file that says what it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from visus.core.device import pick_device
from visus.core.errors import CheckpointError, DataError, TrainingDiverged, UserError
from visus.core.files import write_bytes
from visus.core.preprocessing import Preprocessing
from visus.core.validate import natural, one_of, positive, require
from visus.core.weights import read_metadata, read_state_dict, write_state_dict
from visus.explain.style import covering, pixels_of
from visus.losses.perceptual import FeatureMaps, feature_loss, paper_layers, style_grams, style_loss
from visus.models.generate.style_net import (
    INSTANCE,
    JOHNSON,
    StyleNet,
    StyleNetConfig,
    SuperNet,
    TextureNet,
    dumoulin,
)
from visus.ops.resample import resize
from visus.ops.total_variation import total_variation
from visus.run.bundle import TrainedModel, load_model
from visus.run.display import Display
from visus.run.models import make_model
from visus.run.predict import expand
from visus.run.pretrained import preprocessing_of

META = "visus.painter"
NETWORKS = ("johnson", "instance", "conditional")


@dataclass(frozen=True)
class Painter:
    """A trained network. kind: 'style', 'super' or 'texture'. styles: the names of its paintings. file: where it is."""

    kind: str
    network: nn.Module
    styles: tuple[str, ...] = ()
    losses: tuple[float, ...] = ()
    file: Path | None = None


@dataclass(frozen=True)
class Critic:
    """A frozen classifier that compares pictures. Its `normalise` takes [0, 1]."""

    model: nn.Module
    preprocessing: Preprocessing
    device: torch.device


def critic(model: TrainedModel | str | os.PathLike[str], weights: str | Path | None = None, *, origin: str = "visus",
           device: str = "auto") -> Critic:
    """A run, its folder, or a registered model with weights, in eval mode, without gradients of its parameters. What is
    trained against it does not change it. Raises UserError for a model's name without weights."""
    if isinstance(model, TrainedModel) or os.path.isdir(model):
        trained = model if isinstance(model, TrainedModel) else load_model(model)
        network, preprocessing = trained.model, trained.preprocessing
    else:
        name = os.fspath(model)
        require(weights is not None, "weights", weights, f"be given for {name}: a random network sees no style")
        network, _ = make_model(name, image_size=None, weights=weights, origin=origin)
        preprocessing = Preprocessing(**preprocessing_of(name, str(weights)))
    where = pick_device(device)
    return Critic(network.to(where).eval().requires_grad_(False), preprocessing, where)


# -- training ------------------------------------------------------------------------------------------------------


def train_style(photographs: str | Path | Iterable[Any], styles: Sequence[str | Path], out: str | Path,
                judge: Critic, *, network: str | StyleNetConfig = "instance", steps: int = 40000, batch: int = 4,
                size_px: int = 256, lr: float = 1e-3, content_weight: float = 1.0, style_weight: float = 5.0,
                tv_weight: float = 1e-4, style_size_px: int | None = None, pool: str = "max", relative: bool = True,
                seed: int = 0, progress: bool = True) -> Painter:
    """A network that paints any photograph as `styles` are: Johnson et al., section 3.1 and 4.1, whose steps, batch,
    size and step length are the defaults. Written to `out`.

    photographs: a folder or files, from which squares of size_px are cut. network: 'johnson' (batch norm), 'instance'
    (Ulyanov et al.) or 'conditional' (Dumoulin et al., needed for several styles, one drawn at random for each image),
    or a config. relative: each layer counts relative to its target, so that weights serve any network; False gives the
    paper's sums. tv_weight: of the total variation per value. The loss of each step is kept.
    """
    _check(steps=steps, batch=batch, size_px=size_px, seed=seed, lr=lr)
    require(len(styles) > 0, "styles", styles, "name the file of at least one painting")
    if isinstance(network, str):
        one_of(NETWORKS, network=network)
        network = {"johnson": JOHNSON, "instance": INSTANCE, "conditional": dumoulin(len(styles))}[network]
    require(network.num_styles == len(styles), "network", network.num_styles,
            f"have a norm for each of the {len(styles)} styles: network='conditional'")
    net = _seeded(lambda: StyleNet(network), seed).to(judge.device)
    layers = paper_layers(judge.model, "fast")
    features = FeatureMaps(judge.model, (*layers.content, *layers.style), pool)
    normalise = judge.preprocessing.normalise
    with torch.no_grad():
        side = style_size_px or size_px
        paintings = [covering(pixels_of(style, 3), (side, side)).to(judge.device) for style in styles]
        grams = [style_grams(features(normalise(painting)), layers.style) for painting in paintings]
        targets = {layer: torch.cat([gram[layer] for gram in grams]) for layer in layers.style}  # [S, C, C]
    photos = _Photographs(photographs, size_px, judge.device)

    def loss(step: int) -> Tensor:
        generator = _generator(seed, step)
        images = photos.batch(batch, generator)
        chosen = torch.randint(len(styles), (batch,), generator=generator).to(judge.device)
        made = net(images, chosen if network.norm == "conditional" else None)
        maps = features(normalise(made))
        with torch.no_grad():
            content = FeatureMaps(judge.model, layers.content, pool)(normalise(images))
        wanted = {layer: target[chosen] for layer, target in targets.items()}
        return (content_weight * feature_loss(maps, content, relative=relative)
                + style_weight * style_loss(style_grams(maps, layers.style), wanted, relative=relative)
                + tv_weight * total_variation(made).mean() / made[0].numel())

    losses = _fit(net, loss, steps, lr, "style", progress)
    names = tuple(Path(style).name for style in styles)
    return _save(Painter("style", net.eval(), names, losses, Path(out)), {"config": asdict(network)})


def train_super_resolution(photographs: str | Path | Iterable[Any], out: str | Path, judge: Critic, *, scale: int = 4,
                           steps: int = 200_000, batch: int = 4, size_px: int = 288, lr: float = 1e-3,
                           feature_weight: float = 1.0, pixel_weight: float = 0.0, tv_weight: float = 1e-4,
                           dim: int = 64, depth: int = 4, seed: int = 0, progress: bool = True) -> Painter:
    """A network that enlarges photographs `scale` times and draws their detail: Johnson et al., sections 3.2 and 4.2.
    Written to `out`.

    Small images are the squares of size_px blurred (Gaussian, sigma 1 pixel) and made smaller by cubic interpolation;
    the loss is the distance of features (relu2_2 of a VGG), or of pixels (pixel_weight), or both.
    """
    _check(steps=steps, batch=batch, size_px=size_px, seed=seed, lr=lr)
    require(size_px % scale == 0, "size_px", size_px, f"be a multiple of scale={scale}")
    net = _seeded(lambda: SuperNet(scale, dim=dim, depth=depth), seed).to(judge.device)
    features = FeatureMaps(judge.model, paper_layers(judge.model, "super").content)
    photos = _Photographs(photographs, size_px, judge.device)
    normalise = judge.preprocessing.normalise

    def loss(step: int) -> Tensor:
        images = photos.batch(batch, _generator(seed, step))
        made = net(smaller(images, scale))
        total = pixel_weight * F.mse_loss(made, images) + tv_weight * total_variation(made).mean() / made[0].numel()
        if feature_weight:
            with torch.no_grad():
                wanted = features(normalise(images))
            total = total + feature_weight * feature_loss(features(normalise(made)), wanted, relative=True)
        return total

    losses = _fit(net, loss, steps, lr, "enlarge", progress)
    return _save(Painter("super", net.eval(), (), losses, Path(out)), {"scale": scale, "dim": dim, "depth": depth})


def train_texture(texture: str | Path, out: str | Path, judge: Critic, *, steps: int = 2000, batch: int = 4,
                  size_px: int = 256, lr: float = 0.1, norm: str = "instance", scales: int = 5, dim: int = 8,
                  pool: str = "max", seed: int = 0, progress: bool = True) -> Painter:
    """A network that turns noise into pictures of one texture: Ulyanov et al., Texture Networks, section 3. Written to
    `out`. The step length falls to 0.7 of itself after 1000 steps and every 200 steps from there, as in the paper."""
    _check(steps=steps, batch=batch, size_px=size_px, seed=seed, lr=lr)
    net = _seeded(lambda: TextureNet(scales=scales, dim=dim, norm=norm), seed).to(judge.device)
    net.noise(1, (size_px, size_px))  # a size that does not fit is refused before anything is computed
    layers = paper_layers(judge.model, "gatys").style
    features = FeatureMaps(judge.model, layers, pool)
    normalise = judge.preprocessing.normalise
    with torch.no_grad():
        picture = covering(pixels_of(texture, 3), (size_px, size_px)).to(judge.device)
        targets = style_grams(features(normalise(picture)), layers)

    def loss(step: int) -> Tensor:
        made = net(net.noise(batch, (size_px, size_px), _generator(seed, step)))
        return style_loss(style_grams(features(normalise(made)), layers), targets, relative=True)

    losses = _fit(net, loss, steps, lr, "texture", progress, lambda step: 0.7 ** max(0, (step - 800) // 200))
    return _save(Painter("texture", net.eval(), (Path(texture).name,), losses, Path(out)),
                 {"scales": scales, "dim": dim, "norm": norm})


def smaller(images: Tensor, scale: int, sigma: float = 1.0) -> Tensor:
    """[B, C, H, W] in [0, 1] -> [B, C, H / scale, W / scale]: blurred (mirrored at the border), then cubic."""
    reach = round(4 * sigma)
    places = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    row = torch.exp(-places.square() / (2 * sigma**2))
    row = (row / row.sum()).expand(images.shape[1], 1, 1, -1)  # [C, 1, 1, K]
    blurred = F.conv2d(F.pad(images, (reach,) * 4, mode="reflect"), row, groups=images.shape[1])
    blurred = F.conv2d(blurred, row.transpose(2, 3), groups=images.shape[1])
    size = (images.shape[2] // scale, images.shape[3] // scale)
    return F.interpolate(blurred, size=size, mode="bicubic", align_corners=False).clamp(0, 1)


def _fit(net: nn.Module, loss: Callable[[int], Tensor], steps: int, lr: float, what: str, progress: bool,
         schedule: Callable[[int], float] = lambda step: 1.0) -> tuple[float, ...]:
    """Adam; loss(step) draws its own data. The loss of each step."""
    adam = torch.optim.Adam(net.parameters(), lr=lr)
    display, losses = Display(progress), []
    net.train()
    with display.steps(what, steps) as advance:
        for step in range(steps):
            value = loss(step)
            losses.append(float(value.detach()))
            if not torch.isfinite(value.detach()):
                raise TrainingDiverged(f"the loss is {losses[-1]}", where=f"step {step}",
                                       remedy=f"Take a smaller lr than {lr}")
            adam.zero_grad()
            value.backward()
            for group in adam.param_groups:
                group["lr"] = lr * schedule(step)
            adam.step()
            advance()
            if (step + 1) % max(1, steps // 20) == 0:
                display.say(what, f"step {step + 1} of {steps}  loss {sum(losses[-20:]) / len(losses[-20:]):.4f}")
    return tuple(losses)


class _Photographs:
    """Random squares of photographs, mirrored at random. A file is read when it is drawn; the last 64 are kept."""

    def __init__(self, source: str | Path | Iterable[Any], size_px: int, device: torch.device):
        given = [source] if isinstance(source, str | Path) else source
        self.files = [file for item in given for file in expand(item)]
        if not self.files:
            raise DataError("no photographs given", where="photographs", remedy="Give a folder that holds some")
        self.size_px, self.device = size_px, device
        self.kept: dict[int, Tensor] = {}

    def batch(self, count: int, generator: Generator) -> Tensor:
        """[count, 3, size_px, size_px] in [0, 1]."""
        draws = torch.rand(count, 4, generator=generator).tolist()
        return torch.stack([self._square(*row) for row in draws]).to(self.device)

    def _square(self, which: float, top: float, left: float, turn: float) -> Tensor:
        number = int(which * len(self.files))
        if number not in self.kept:
            image, side = pixels_of(self.files[number], 3), self.size_px
            scale = side / min(image.shape[2:])  # the short side fits the square, so that most of the picture is seen
            size = (max(side, round(image.shape[2] * scale)), max(side, round(image.shape[3] * scale)))
            if len(self.kept) >= 64:
                self.kept.pop(next(iter(self.kept)))
            self.kept[number] = resize(image, size, "bicubic")[0].clamp(0, 1)
        image, side = self.kept[number], self.size_px
        y, x = int(top * (image.shape[1] - side + 1)), int(left * (image.shape[2] - side + 1))
        square = image[:, y:y + side, x:x + side]
        return square.flip(2) if turn < 0.5 else square


def _seeded(build: Callable[[], nn.Module], seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def _generator(seed: int, step: int) -> Generator:
    """The data of a step depend on seed and step alone."""
    return Generator().manual_seed(1_000_003 * seed + step)


def _check(*, steps: int, batch: int, size_px: int, seed: int, lr: float) -> None:
    positive(steps=steps, batch=batch, size_px=size_px)
    natural(seed=seed)
    require(isinstance(lr, int | float) and lr > 0, "lr", lr, "be above 0")


# -- files ---------------------------------------------------------------------------------------------------------


def _save(painter: Painter, about: dict[str, Any]) -> Painter:
    assert painter.file is not None
    about = {"kind": painter.kind, "styles": painter.styles, **about}
    write_state_dict(painter.file, painter.network.state_dict(), {META: json.dumps(about, sort_keys=True)})
    return painter


def load_painter(file: str | Path, *, device: str = "auto") -> Painter:
    """A network that one of the train functions wrote. Raises CheckpointError for another file."""
    text = read_metadata(file).get(META)
    if text is None:
        raise CheckpointError("was not written by visus.run.style", where=file, remedy="Give the file that a train "
                              "function of visus.run.style wrote")
    try:
        about = json.loads(text)
        kind, styles = about.pop("kind"), tuple(about.pop("styles"))
        network = _network(kind, about)
        network.load_state_dict(read_state_dict(file), strict=True)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"does not hold what its header says: {error}", where=file) from error
    return Painter(kind, network.to(pick_device(device)).eval(), styles, (), Path(file))


def _network(kind: str, about: dict[str, Any]) -> nn.Module:
    if kind == "style":
        config = about["config"]
        return StyleNet(StyleNetConfig(**{**config, "dims": tuple(config["dims"])}))
    if kind == "super":
        return SuperNet(about["scale"], dim=about["dim"], depth=about["depth"])
    if kind == "texture":
        return TextureNet(scales=about["scales"], dim=about["dim"], norm=about["norm"])
    raise ValueError(f"kind={kind!r}")


# -- applying ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def paint(painter: Painter | str | Path, images: str | Path | Iterable[Any], *, style: str | int | None = None,
          shares: Sequence[float] | None = None, out: str | Path | None = None) -> list[Tensor]:
    """Photographs of any size through a style or super-resolution network: uint8 [3, H, W] each; written as PNG files
    into the folder `out`, where one is given.

    style: of a network of several, its name or number; shares: of all its styles, mixed. With neither, the first.
    """
    painter = painter if isinstance(painter, Painter) else load_painter(painter)
    require(painter.kind in ("style", "super"), "painter", painter.kind, "paint photographs: this makes textures from "
            "noise, with make_textures")
    given = [images] if isinstance(images, str | Path) else list(images)
    files = [file for item in given for file in expand(item)]
    device = next(painter.network.parameters()).device
    asked = _asked(painter, style, shares, device)
    made = []
    for file in files:
        picture = painter.network(pixels_of(file, 3).to(device), *asked)
        made.append(_bytes(picture)[0])
    if out is not None:
        _write(made, [f"{number:03d}-{file.stem}.png" for number, file in enumerate(files)], Path(out))
    return made


@torch.no_grad()
def make_textures(painter: Painter | str | Path, count: int = 1, size: tuple[int, int] = (256, 256), *, seed: int = 0,
                  out: str | Path | None = None) -> list[Tensor]:
    """Pictures of the texture that the network has learnt, seamless: uint8 [3, H, W] each. size: multiples of 16."""
    painter = painter if isinstance(painter, Painter) else load_painter(painter)
    require(painter.kind == "texture", "painter", painter.kind, "make textures: this paints photographs, with paint")
    positive(count=count)
    noise = painter.network.noise(count, size, Generator().manual_seed(seed))  # type: ignore[operator]
    made = list(_bytes(painter.network(noise)))
    if out is not None:
        _write(made, [f"texture-{number:03d}.png" for number in range(count)], Path(out))
    return made


def _asked(painter: Painter, style: str | int | None, shares: Sequence[float] | None,
           device: torch.device) -> tuple[Tensor, ...]:
    """What the network takes beside the images."""
    count = len(painter.styles)
    if painter.kind != "style" or painter.network.config.norm != "conditional":  # type: ignore[union-attr]
        if style is not None or shares is not None:
            raise UserError("the network has one way to paint", where=f"style={style!r}, shares={shares!r}",
                            remedy="Leave both out")
        return ()
    if shares is not None:
        require(len(shares) == count, "shares", shares, f"be {count} numbers, one for each style")
        return (torch.tensor([tuple(map(float, shares))], device=device),)
    number = painter.styles.index(style) if isinstance(style, str) and style in painter.styles else style or 0
    if not isinstance(number, int) or not 0 <= number < count:
        raise UserError("the network has no such style", where=f"style={style!r}",
                        remedy=f"It has {', '.join(painter.styles)}")
    return (torch.tensor([number], device=device),)


def _bytes(pictures: Tensor) -> Tensor:
    return (255 * pictures.clamp(0, 1)).round().byte().cpu()


def _write(pictures: Sequence[Tensor], names: Sequence[str], folder: Path) -> None:
    import io

    from PIL import Image

    for picture, name in zip(pictures, names, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()).save(buffer, "PNG")
        write_bytes(folder / name, buffer.getvalue())
