"""The recipe: one validated, frozen description of a training run, to and from YAML.

`auto` means: decided from the data and the machine when the run starts. The run folder's recipe.yaml holds no `auto`
that was decided, so training from that file repeats the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from visus.core.errors import RecipeError, did_you_mean
from visus.core.files import write_text

MAX_BYTES = 1 << 20
Auto = Literal["auto"]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=False,
                              protected_namespaces=())


class Data(Section):
    path: str | None = Field(None, description="Folder, file or built-in name; the command line's PATH goes here")
    format: str = Field("auto", description="Such as folder, table, npz, coco, voc, yolo, shards; auto: recognised")
    class_names: tuple[str, ...] | None = Field(None, description="Names of the classes, where the data have numbers")
    val: Fraction = Field(0.15, description="Share of the training images kept for validation, if none is given")
    test: Fraction = Field(0.15, description="Share kept for the final test, if none is given")
    split_seed: int = Field(0, ge=0, description="Seed of the split: fixed apart from train.seed")
    groups: bool = Field(True, description="Keep images of one group (a 'group' column) on one side of the split")
    split: str | None = Field(None, description="A split in a file: CSV of path,split, or a run whose split is taken")
    folds: Annotated[int, Field(ge=2)] | Literal["groups"] | None = Field(
        None, description="Cross-validation: parts that are each held out once; groups: leave one group out")
    fold: Count | None = Field(None, description="Which part this run holds out as its test split; none: all, in turn")
    fold_repeats: Count = Field(1, description="Whole cross-validations, each by another draw")
    fold_kind: Literal["stratified", "plain"] = Field("stratified", description="plain: folds blind to the class")
    sampling: Literal["none", "weighted", "sqrt"] = Field(
        "none", description="Draw training images with replacement: classes equally often (weighted) or by the root of "
        "their sizes (sqrt)")
    repeats: Count = Field(1, description="Repeated augmentation: each image so many times in a batch, each time "
                           "in its own way; an epoch stays as long")
    image_size: Auto | Count | tuple[Count, Count] = Field("auto", description="Pixels, or [height, width]")
    channels: Auto | Literal[1, 3] = Field("auto", description="1: grey, 3: RGB")
    resize: Literal["squash", "crop", "pad"] = Field("squash", description="How an image takes image_size")
    crop_fraction: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="Centre kept by resize=crop")
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    normalise: Literal["auto", "data", "model", "imagenet", "none"] = Field(
        "auto", description="Mean and std: of the training split (data), of the public weights (model), ...")
    background: tuple[int, int, int] = Field((255, 255, 255), description="RGB under transparency and padding")
    on_bad_image: Literal["stop", "skip"] = Field("stop", description="Unreadable files: list all and stop, or skip")
    workers: Auto | Annotated[int, Field(ge=0)] = Field("auto", description="Loader processes; 0: in this one")
    cache: Auto | bool = Field("auto", description="Keep decoded images in the run folder (uint8), crops cut from them")
    cache_bytes: Annotated[int, Field(ge=0)] = Field(16 << 30, description="Most that the cache holds; the rest is "
                                                     "decoded again in each epoch")


class Model(Section):
    name: str = Field("auto", description="A registered name: see `visus models`")
    config: dict[str, Any] = Field(default_factory=dict, description="Fields of the model's config to override")
    weights: str | None = Field(None, description="Start from: a file, or a public origin: torchvision, timm")
    freeze: Literal["none", "backbone"] | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        "none", description="Keep the weights of all but the classifier (backbone), or of the modules and parameters "
        "named: [stem, stages.0]")
    origin: str = Field("visus", description="Whose parameter names the file has: visus, torchvision, timm")
    init: Literal["auto", "zeros", "small", "lecun", "xavier", "kaiming", "orthogonal", "sparse", "fixup", "lsuv"] = \
        Field("auto", description="First weights; auto: the model's own")
    init_scale: Positive = Field(0.01, description="init=small: standard deviation of the weights")
    norm: Literal["auto", "batch", "layer", "group", "instance", "local_response", "none"] = Field(
        "auto", description="What takes the place of each batch norm; auto: the model as it is")
    weight_norm: Literal["none", "weight_norm", "weight_standardisation"] = Field(
        "none", description="How kernels and matrices are normalised")


class Mix(Section):
    mixup: NonNegative = Field(0.0, description="Alpha of mixup: images and labels blended by a share from Beta(alpha, "
                               "alpha); 0: off")
    cutmix: NonNegative = Field(0.0, description="Alpha of CutMix: a box of another image, labels by area; 0: off")
    cutmix_share: Annotated[float, Field(ge=0, le=1)] = Field(0.5, description="Of the mixed images, if both are on")
    probability: Annotated[float, Field(ge=0, le=1)] = Field(1.0, description="Of an image being mixed at all")


class Defend(Section):
    method: Literal["none", "fgsm", "pgd", "free", "trades", "double_backprop"] = Field(
        "none", description="Adversarial training: fgsm (one step, random start), pgd, free (replayed batches), "
        "trades; double_backprop: a price on the slope at the images")
    norm: Literal["linf", "l2"] = Field("linf", description="How far images are moved is measured in")
    eps: Auto | Positive = Field("auto", description="How far, of pixels in [0, 1]; auto: 8/255 in colour, 0.1 in grey")
    steps: Auto | Count = Field("auto", description="pgd, trades: steps of the attack; free: replays of each batch")
    step_size: Auto | Positive = Field("auto", description="Length of a step; auto: eps / 4, or what crosses the ball")
    beta: Positive = Field(6.0, description="trades: weight of the divergence between clean and moved images; "
                           "double_backprop: of the squared slope")


class Loss(Section):
    name: str = Field("auto", description="cross_entropy, binary_cross_entropy, multiclass_hinge, squared_hinge, "
                      "focal, sigmoid_focal, class_balanced, logit_adjusted")
    label_smoothing: Fraction = Field(0.0, description="cross_entropy and binary_cross_entropy of one label per image")
    class_weights: Literal["none", "balanced", "effective"] = Field(
        "none", description="cross_entropy, focal: weigh classes by 1 / images (balanced) or by 1 / effective number")
    gamma: NonNegative = Field(2.0, description="focal, sigmoid_focal: how much less easy images count; 0: all alike")
    alpha: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="sigmoid_focal: weight of the yes, 1 - alpha of the no; none: both 1")
    beta: Fraction = Field(0.999, description="class_balanced and class_weights=effective: of the effective number")
    tau: NonNegative = Field(1.0, description="logit_adjusted: how much of the logarithm of the class shares is added")


class Distill(Section):
    teacher: str | None = Field(None, description="A finished run's folder, or a registered model with public weights "
                                "as NAME:ORIGIN; none: no distillation")
    method: Literal["logits", "mimic", "hints", "hard"] = Field(
        "logits", description="logits: softened probabilities (Hinton 2015); mimic: the teacher's logits regressed (Ba "
        "and Caruana 2014); hints: first a hidden layer, then logits (FitNets 2015); hard: the teacher's decisions "
        "(DeiT, on the distillation token where the model has one)")
    temperature: Positive = Field(4.0, description="logits, hints: softness of both probabilities")
    weight: Auto | Annotated[float, Field(ge=0, le=1)] = Field(
        "auto", description="Share of the teacher in the loss, the rest is that of the labels; auto: 0.9 (logits), 1 "
        "(mimic), 0.8 that falls to a half (hints), 0.5 (hard)")
    hint_layer: str = Field("auto", description="hints: the teacher's module to imitate; auto: its middle")
    guided_layer: str = Field("auto", description="hints: the student's module that imitates; auto: its middle")
    hint_epochs: Auto | Count = Field("auto", description="hints: epochs of the first phase, before the others; auto: "
                                      "a third of train.epochs")


class Regularise(Section):
    l1: NonNegative = Field(0.0, description="Weight of the sum of absolute weights; with weight_decay: elastic net")
    max_norm: Positive | None = Field(None, description="Largest L2 norm of the weights into a unit (3 to 4)")
    dropconnect: Fraction = Field(0.0, description="Share of the weights of linear layers left out in each step")


class Optimizer(Section):
    name: str = Field("auto", description="sgd, adamw, adam, lamb, lars, lion, muon, rmsprop, ...: see "
                      "`visus optimizers`")
    lr: Auto | Positive = Field("auto", description="Peak learning rate")
    momentum: Fraction | None = Field(None, description="sgd, rmsprop, lars, muon; none: the optimizer's own: 0.9, "
                                      "muon 0.95")
    nesterov: bool = Field(True, description="sgd, muon")
    weight_decay: Auto | NonNegative = "auto"
    betas: tuple[Fraction, Fraction] | None = Field(None, description="None: the optimizer's own: 0.9 and 0.999, lion "
                                                    "0.9 and 0.99")
    eps: Positive | None = Field(None, description="None: the optimizer's own")
    lr_batch: Count | None = Field(None, description="The batch that lr is meant for: another global batch scales it "
                                   "in proportion (Goyal 2017), which is said aloud; none: lr as it is")
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="Factor of the rate from each layer to the one before it: 0.65 to 0.75 for fine-tuning")
    head_lr: Positive = Field(1.0, description="Factor of the rate of the classifier against the rest")
    sam: NonNegative = Field(0.0, description="Radius of sharpness-aware minimisation around any optimizer: 0.05; "
                             "0: off")
    sam_adaptive: bool = Field(False, description="sam: radius in units of each weight (ASAM)")
    lookahead: Annotated[int, Field(ge=0)] = Field(0, description="Updates between steps of the slow weights; 0: off")
    lookahead_alpha: Annotated[float, Field(gt=0, le=1)] = Field(0.5, description="lookahead: share of the way")
    history: Count = Field(10, description="lbfgs: steps that are remembered")


class Schedule(Section):
    name: str = Field("cosine", description="constant, step, multistep, exponential, inverse_time, cosine, "
                      "cosine_restarts, linear, poly, inverse_sqrt, one_cycle, triangular, wsd")
    warmup_epochs: Auto | NonNegative = Field("auto", description="Linear warm-up, in epochs (may be a fraction)")
    final: Fraction = Field(0.0, description="Last learning rate as a share of the peak")
    step_epochs: Positive = Field(30.0, description="step: epochs between drops")
    milestones: tuple[Positive, ...] = Field((), description="multistep: epochs at which the rate drops")
    gamma: Annotated[float, Field(gt=0, le=1)] = Field(0.1, description="step, multistep: factor of each drop; "
                                                       "exponential: factor over the whole run")
    power: Positive = Field(0.9, description="poly: exponent of what is left of the run")
    decay_rate: NonNegative | Literal["bottou"] = Field(
        1.0, description="inverse_time: 1 / (1 + rate * epochs); bottou: weight decay * peak rate per update")
    cycles: Count = Field(1, description="cosine_restarts: cycles in the run")
    cycle_factor: Annotated[float, Field(ge=1)] = Field(1.0, description="cosine_restarts: length of each cycle "
                                                        "against the one before")
    decay_share: Annotated[float, Field(gt=0, lt=1)] = Field(0.2, description="wsd: last part of the run, in which the "
                                                             "rate falls")


class Train(Section):
    epochs: Auto | Count = "auto"
    batch_size: Auto | Count = Field("auto", description="Images in a batch, of all processes together")
    accumulate: Count = Field(1, description="Batches per update")
    clip_norm: Positive | None = Field(None, description="Largest gradient norm")
    clip_adaptive: Positive | None = Field(None, description="Largest gradient of a unit as a share of its weights: "
                                           "0.01 to 0.2, for nets without normalisation")
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(None, description="Decay of the averaged weights")
    average_from: Fraction | None = Field(None, description="Plain average of the weights from this share of the run "
                                          "on")
    average_every: Literal["epoch", "update"] = Field("epoch", description="average_from: of each epoch's last weights "
                                                      "(SWA) or of each update's (Polyak)")
    snapshots: Annotated[int, Field(ge=2)] | None = Field(
        None, description="Snapshot ensemble: so many cosine cycles, the weights at the end of each kept")
    sizes: tuple[tuple[Fraction, Annotated[float, Field(gt=0, le=1)]], ...] = Field(
        (), description="Progressive resizing: [[0, 0.6], [0.6, 1]]: from this share of the run on, images of this "
        "share of the model's side")
    strategy: Literal["ddp", "fsdp"] = Field("ddp", description="Over several processes: whole copies (ddp) or split "
                                             "weights (fsdp)")
    sync_batchnorm: bool = Field(False, description="Over several processes: batch statistics of all of them")
    compile: bool = Field(False, description="torch.compile: minutes at the start, graph breaks are reported")
    checkpoint_activations: bool = Field(False, description="Compute activations again in the backward pass: less "
                                         "memory")
    profile: bool = Field(False, description="Measure where the time of a step goes, against the machine's peak: "
                          "profile.json and the report; the result is the same")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: two timed steps decide; on a GPU bf16, or fp16 where it has none")
    layout: Literal["auto", "contiguous", "channels_last"] = Field("auto", description="auto: two timed steps decide")
    threads: Auto | Count = Field("auto", description="CPU threads; auto: two timed steps decide")
    seed: int = Field(0, ge=0)
    patience: Count | None = Field(None, description="Stop after so many epochs without a better headline")
    checkpoint_steps: Count | None = Field(None, description="Save every so many updates")
    checkpoint_seconds: Positive = Field(300.0, description="and at least so often; and after each epoch")
    deterministic: bool = Field(True, description="Only deterministic kernels, so that a resume gives the same bits")


class Evaluate(Section):
    tta: Literal["none", "flip", "flip_shift"] = Field(
        "none", description="Answers averaged over the image, its mirror image, and (flip_shift) both moved by a pixel")


class Doctor(Section):
    before: bool = Field(True, description="Check images, model, loss and batches before the first step")
    watch: bool = Field(True, description="Watch weights, gradients and outputs while training")
    budget_s: NonNegative = Field(20.0, description="Seconds for the checks before training; 0: none of them")


class Report(Section):
    budget_s: NonNegative = Field(30.0, description="Seconds for what the report adds to the metrics: explanations, "
                                  "attacks, corruptions, calibration, the embedding; 0: none of it, and no ladder")
    ladder_s: NonNegative = Field(20.0, description="Seconds in which baselines are begun that learn more than a "
                                  "linear classifier: nearest neighbour, features and SVM, a small net; 0: none")


class Recipe(Section):
    """All that decides a run. Frozen; `with_values` gives a changed copy."""

    description: str = ""
    task: Literal["auto", "classification", "multilabel"] = "auto"
    device: str = "auto"
    data: Data = Data()
    augmentation: Auto | tuple[dict[str, Any], ...] = Field(default="auto",
                                                            description="Steps such as {name: horizontal_flip}")
    mix: Mix = Mix()
    model: Model = Model()
    loss: Loss = Loss()
    defend: Defend = Defend()
    distill: Distill = Distill()
    regularise: Regularise = Regularise()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    doctor: Doctor = Doctor()
    report: Report = Report()

    @model_validator(mode="after")
    def _splits_leave_something(self) -> Recipe:
        if self.data.val + self.data.test >= 1:
            raise ValueError(f"data.val={self.data.val} and data.test={self.data.test} leave nothing to train on")
        return self

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: object = "recipe") -> Recipe:
        """A recipe from plain values. Raises RecipeError naming each wrong field, its value and the remedy."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise _recipe_error(error, where) from None

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """A recipe file. YAML is data here: no tags, no aliases, at most 1 MiB."""
        return cls.parse(read_yaml(path), path)

    def save(self, path: str | Path) -> None:
        write_text(path, self.to_yaml())

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)

    def with_values(self, assignments: Mapping[str, Any], where: object = "--set") -> Recipe:
        """A copy with dotted fields changed: {'train.epochs': 3}."""
        values = self.model_dump(mode="json")
        for name, value in assignments.items():
            _assign(values, name, value, where)
        return type(self).parse(values, where)

    @classmethod
    def fields(cls) -> dict[str, str]:
        """Dotted name -> description, for help and near misses."""
        return dict(_fields(cls, ""))

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        return cls.model_json_schema()

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(self.to_yaml())}</pre>"


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises RecipeError naming file and line."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", where=path,
                          remedy="See `visus recipes` for the recipes that ship") from error
    if len(data) > MAX_BYTES:
        raise RecipeError(f"has {len(data)} bytes, more than the limit of {MAX_BYTES}", where=path)
    try:
        text = data.decode("utf-8-sig")
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            if isinstance(token, yaml.AliasToken | yaml.AnchorToken):
                raise RecipeError("anchors and aliases are not allowed in a recipe",
                                  where=f"{path}, line {token.start_mark.line + 1}", remedy="Write the values out")
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}, line {mark.line + 1}" if mark else path
        raise RecipeError(f"is not plain YAML: {getattr(error, 'problem', None) or error}", where=place) from None
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        raise RecipeError(f"is not plain YAML: {type(error).__name__}", where=path) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise RecipeError(f"holds a {type(values).__name__}, not fields", where=path,
                          remedy="A recipe looks like: train: {epochs: 10}")
    return values


def parse_assignments(texts: Iterable[str]) -> dict[str, Any]:
    """['train.epochs=3'] -> {'train.epochs': 3}; the value is read as YAML."""
    assignments: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise RecipeError("is not of the form name=value", where=f"--set {text}",
                              remedy="For example: --set train.epochs=10")
        try:
            assignments[name.strip()] = yaml.safe_load(value) if value.strip() else None
        except yaml.YAMLError as error:
            raise RecipeError(f"the value is not YAML: {getattr(error, 'problem', error)}",
                              where=f"--set {text}") from None
    return assignments


def _assign(values: dict[str, Any], name: str, value: Any, where: object) -> None:
    known = Recipe.fields()
    if name not in known and not name.startswith("model.config."):
        raise RecipeError("there is no such field", where=f"{where} {name}={value!r}",
                          remedy=did_you_mean(name, known))
    *sections, last = name.split(".")
    target = values
    for section in sections:
        target = target.setdefault(section, {})
    target[last] = value


def _fields(section: type[BaseModel], prefix: str) -> Iterable[tuple[str, str]]:
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _fields(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, field.description or ""


def _recipe_error(error: ValidationError, where: object) -> RecipeError:
    """One sentence per wrong field. A union that fails in several ways is one wrong field."""
    problems: dict[str, str] = {}
    remedy = "See the fields and their meaning with: visus recipes --schema"
    for item in error.errors(include_url=False, include_context=False):
        path = [str(part) for part in item["loc"]]
        name = ".".join(path)
        if item["type"] == "extra_forbidden":
            problems[name] = f"{name}: there is no such field"
            sections = {f.rpartition(".")[0] for f in Recipe.fields()} - {""}
            remedy = did_you_mean(name, [*Recipe.fields(), *sorted(sections)])
            continue
        known = [field for field in Recipe.fields() if name == field or name.startswith(field + ".")]
        field = max(known, key=len) if known else name
        message = item["msg"].removeprefix("Value error, ")
        sentence = f"{field}={_short(item['input'])}: {message}" if field else message
        problems[field] = f"{problems[field]}, or {message}" if field in problems else sentence
    return RecipeError("; ".join(problems.values()), where=where, remedy=remedy)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
