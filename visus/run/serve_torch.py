"""What the page of `visus serve` asks the torch model of a bundle: explanation maps and attacked images.

The model is loaded at the first question, not when the server starts, and answers one question at a time: what follows
gradients sets hooks on the model. Each method does as much work as fits in a few seconds on this machine, told by the
time of one forward pass. All seeds are fixed.
"""

from __future__ import annotations

import atexit
import importlib.util
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from visus.core.errors import CheckpointError, UserError, did_you_mean
from visus.core.files import sha256
from visus.deploy.artifact import MODEL, Bundle

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from visus.run.bundle import TrainedModel

BUDGET_S = 3.0  # of one answer, about
PASSES = (32, 1024)  # the least and the most, of masked images for a map
STEPS = (8, 32)  # of integrated gradients: each costs about three forward passes, as those of PGD do
PGD_STEPS = (7, 20)
FRAGMENT_PX = 3  # the smallest patch that occlusion hides
MOST_PLACES = 56  # along a side of a map: single pixels of a large picture cannot be seen
MAPS = {"grad_cam": "Grad-CAM", "grad_cam_plus_plus": "Grad-CAM++", "integrated_gradients": "Integrated gradients",
        "occlusion": "Occlusion", "rise": "RISE", "rollout": "Attention rollout"}
CLASSLESS = ("rollout",)  # the same map whatever class is asked about
ATTACKS = {"fgsm": "FGSM", "pgd": "PGD"}


EXIT_S = 10.0  # that the end of the process waits for
COMPUTING = threading.RLock()
atexit.register(COMPUTING.acquire, timeout=EXIT_S)  # a thread that is torn out of torch's C++ aborts the process


@dataclass(frozen=True)
class Loaded:
    """network: as trained; quick: with folded norms, where the answers stay the same. pass_s: seconds of a forward
    pass."""

    trained: TrainedModel
    network: nn.Module
    quick: nn.Module
    calibrated: Callable[[Tensor], Tensor]
    pass_s: float


@dataclass
class TorchModel:
    """The torch model of a bundle, loaded when it is first needed; `threads` to compute with."""

    bundle: Bundle
    threads: int = 1
    loaded: Loaded | None = field(default=None, repr=False)

    def get(self) -> Loaded:
        """Raises CheckpointError for damaged files, and for others than those that the server began with."""
        with COMPUTING:
            if self.loaded is None:
                self.loaded = _load(self.bundle, self.threads)
            return self.loaded


def _load(bundle: Bundle, threads: int) -> Loaded:
    import torch

    from visus.deploy.frozen import frozen
    from visus.deploy.program import calibration_module
    from visus.run.bundle import load_model

    folder = bundle.model_folder
    digest = bundle.about.get("files", {}).get(f"{MODEL}/model.json")
    if folder is None or (digest is not None and sha256(folder / "model.json") != digest):
        raise CheckpointError("the torch model is not there, or not the one that is served",
                              remedy="Start the server again, or let it load the new bundle")
    torch.set_num_threads(threads)
    trained = load_model(folder)
    network = trained.model.requires_grad_(False)
    shape = (1, trained.preprocessing.channels, *trained.preprocessing.size)
    quick = frozen(network, shape)
    probe = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        if not torch.allclose(network(probe), quick(probe), rtol=1e-3, atol=1e-3):
            quick = network
        begun = time.perf_counter()
        quick(probe)
        pass_s = time.perf_counter() - begun
    module = calibration_module(trained.about.get("calibration"))
    return Loaded(trained, network, quick, (lambda probs: probs) if module is None else module, pass_s)


@dataclass(frozen=True)
class Explain:
    """(uint8 [h, w, c] as the network takes it, method, class or None for the model's answer) -> float32 [H, W], a
    value for each place, the larger the more it speaks for the class; coarser than the image where the method is."""

    model: TorchModel

    def methods(self) -> dict[str, dict[str, Any]]:
        """By name: title, summary in a line, whether it asks about a class. Those that suit this model."""
        import torch

        from visus.explain import registry

        with COMPUTING:
            loaded = self.model.get()
            blank = torch.zeros(1, loaded.trained.preprocessing.channels, *loaded.trained.preprocessing.size)
            fit = [name for name in MAPS if _method(name, None, loaded).problem(loaded.network, blank) is None]
        if "rollout" in fit:  # the transformer's own map first
            fit.insert(0, fit.pop())
        return {name: {"title": MAPS[name], "summary": registry.get(name).about["summary"],
                       "asks_class": name not in CLASSLESS} for name in fit}

    def __call__(self, prepared: np.ndarray, method: str, class_index: int | None = None) -> np.ndarray:
        """Raises UserError for an unknown method or class and for a method that does not suit the model."""
        if method not in MAPS:
            raise UserError("is not a method of explanation here", where=f"method={method!r}",
                            remedy=did_you_mean(method, MAPS))
        with COMPUTING:
            loaded = self.model.get()
            images = loaded.trained.preprocessing.normalise(_float(prepared, loaded))
            chosen = _method(method, None if method in CLASSLESS else class_index, loaded)
            problem = chosen.problem(loaded.network, images)
            if problem is not None:
                raise UserError(f"does not suit this model: {problem}", where=f"method={method!r}",
                                remedy="Take another method")
            found = chosen(loaded.quick if getattr(chosen, "folded", False) else loaded.network, images)
            assert found.heat is not None
            return _seen(found.heat[:, None].float())[0, 0].numpy()


def _seen(heat: Tensor) -> Tensor:
    """[1, 1, H, W] -> the means over squares of it, at most MOST_PLACES along a side, where it changes from pixel to
    pixel as integrated gradients do."""
    from torch.nn.functional import avg_pool2d

    side = -(-max(heat.shape[2:]) // MOST_PLACES)
    return heat if side == 1 else avg_pool2d(heat, side, ceil_mode=True, count_include_pad=False)


def _method(name: str, target: int | None, loaded: Loaded) -> Any:
    """The explainer with as much work as fits."""
    from visus.explain import registry

    preprocessing = loaded.trained.preprocessing
    passes = _passes(loaded)
    options: dict[str, Any] = {} if name in CLASSLESS else {"target": target}
    if name == "integrated_gradients":
        options |= {"steps": int(np.clip(passes // 4, *STEPS)), "batch": 8, "mean": preprocessing.mean,
                    "std": preprocessing.std}
    if name in ("occlusion", "rise"):
        options["of"] = "logit" if loaded.trained.task == "multilabel" else "probability"
    if name == "rise":
        options["masks"] = passes
    if name == "occlusion":
        options |= _patches(min(preprocessing.size), max(preprocessing.size), passes)
    return registry.get(name).build(**options)


def _passes(loaded: Loaded) -> int:
    """Forward passes that fit into the time: a power of two, so that the work seldom differs between two starts."""
    return 1 << int(np.clip(BUDGET_S / loaded.pass_s, *PASSES)).bit_length() - 1


def _patches(short: int, long: int, passes: int) -> dict[str, int]:
    """Side and stride of the patch, in pixels: a seventh of the image and half of that, or more for fewer passes."""
    window = max(FRAGMENT_PX, round(short / 7))
    while window < short:
        stride = max(1, window // 2)
        if (1 + -(-(short - window) // stride)) * (1 + -(-(long - window) // stride)) <= passes:
            break
        window += 1
    return {"window": window, "stride": max(1, window // 2)}


@dataclass(frozen=True)
class Attack:
    """(uint8 [h, w, c], epsilon as a share of the full range, method) -> uint8 [h, w, c], no pixel moved by more than
    epsilon, that the model answers otherwise where the attack succeeds."""

    model: TorchModel

    def methods(self) -> dict[str, dict[str, Any]]:
        """By name: title and summary in a line. Nothing for a model that has no gradient or gives
        several labels."""
        import torch

        from visus.attack import registry
        from visus.explain.saliency import no_gradient

        with COMPUTING:
            loaded = self.model.get()
            blank = torch.zeros(1, loaded.trained.preprocessing.channels, *loaded.trained.preprocessing.size)
            if loaded.trained.task != "classification" or no_gradient(loaded.quick, blank) is not None:
                return {}
        return {name: {"title": title, "summary": registry.get(name).about["summary"]}
                for name, title in ATTACKS.items()}

    def __call__(self, prepared: np.ndarray, epsilon: float, method: str = "pgd") -> np.ndarray:
        """Raises UserError for an unknown method and for a model that cannot be attacked by gradients."""
        import torch

        from visus.attack import registry
        from visus.explain.saliency import no_gradient

        if method not in ATTACKS:
            raise UserError("is not an attack here", where=f"method={method!r}", remedy=did_you_mean(method, ATTACKS))
        if not 0 <= epsilon <= 1:
            raise UserError("must lie between 0 and 1", where=f"epsilon={epsilon!r}", remedy="8/255 is 0.0314")
        levels = int(epsilon * 255 + 1e-6)  # whole grey levels: the answer is an image of 8 bits
        with COMPUTING:
            loaded = self.model.get()
            if loaded.trained.task != "classification":
                raise UserError("attacks ask for one class an image", where=f"task={loaded.trained.task}",
                                remedy="Serve a model whose images have one label each")
            images = _float(prepared, loaded)
            problem = no_gradient(loaded.quick, images)
            if problem is not None:
                raise UserError(problem, where=f"method={method!r}", remedy="Serve a network trained by gradients")
            if levels == 0:
                return prepared.copy()
            logits = _classifier(loaded)
            with torch.no_grad():
                label = loaded.calibrated(logits(images).softmax(1)).argmax(1)
            options: dict[str, Any] = {}
            if method == "pgd":  # the last step has the greatest loss
                options = {"steps": int(np.clip(_passes(loaded) // 4, *PGD_STEPS)), "early_stop": False}
            attack = registry.get(method).build(eps=levels / 255, **options)
            found = attack(logits, images, label, generator=torch.Generator().manual_seed(0)).images
            return _whole_levels(found, images, levels, label, logits)


def _whole_levels(found: Tensor, images: Tensor, levels: int, label: Tensor,
                  logits: Callable[[Tensor], Tensor]) -> np.ndarray:
    """The attacked image in 8 bits, rounded to the nearest level or away from the original: what misleads more."""
    import torch

    from visus.attack.attack import margin

    moved = (found - images) * 255
    tried = torch.stack([moved.round(), (moved.abs() - 1e-3).ceil() * moved.sign()])[:, 0].clamp(-levels, levels)
    tried = (images * 255).round().add(tried).clamp(0, 255)  # [2, C, H, W]
    with torch.no_grad():
        best = int(margin(logits(tried / 255), label.expand(2)).argmax())
    return tried[best].byte().permute(1, 2, 0).contiguous().numpy()


def _classifier(loaded: Loaded) -> Callable[[Tensor], Tensor]:
    return lambda images: loaded.trained.preprocessing.answers(loaded.quick, images).float()


def _float(prepared: np.ndarray, loaded: Loaded) -> torch.Tensor:
    """uint8 [h, w, c] -> [1, c, h, w] in [0, 1]. Raises UserError for another size than the model's."""
    import torch

    preprocessing = loaded.trained.preprocessing
    if prepared.shape != (*preprocessing.size, preprocessing.channels):
        raise UserError(f"has the shape {prepared.shape}", where="image",
                        remedy=f"Prepare it to {(*preprocessing.size, preprocessing.channels)}")
    return torch.from_numpy(np.array(prepared)).permute(2, 0, 1)[None].float() / 255


def torch_side(bundle: Bundle, threads: int = 1) -> tuple[Explain, Attack] | None:
    """What `visus serve` hands to the server for a bundle: both ask one model. None where torch is not installed, or
    the bundle holds no torch model. Loads nothing yet."""
    if bundle.model_folder is None or importlib.util.find_spec("torch") is None:
        return None
    model = TorchModel(bundle, threads)
    return Explain(model), Attack(model)
