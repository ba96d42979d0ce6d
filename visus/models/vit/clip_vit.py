"""CLIP's image towers: a ViT whose class token is projected to where the words of its caption lie.

Paper: Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021,
arXiv:2103.00020, section 2.4: a ViT (Dosovitskiy et al., ICLR 2021) with one more norm before its blocks, without a
bias of the patches' projection and with QuickGELU. Departures: the classifier, which the paper fits to frozen features
(a linear probe, on the class token before the projection), is one linear layer of the model. Parameters carry timm's
names, but for the projection, `proj`.
forward: images [B, C, H, W], normalised, H and W multiples of patch_size -> logits [B, num_classes].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visus import models
from visus.core.rename import join_parts, rename
from visus.core.validate import boolean, positive, probability
from visus.layers.fresh_head import fresh_head
from visus.layers.mlp import MLP
from visus.layers.patch_stem import PatchStem, maps_of
from visus.layers.quick_gelu import QuickGELU
from visus.layers.vit_blocks import (
    PreNormBlock,
    TokenBlocks,
    fit_positions,
    initialise_tokens,
    require_tokens,
    sized_positions,
)

NORM_EPS = 1e-5
MEAN = (0.48145466, 0.4578275, 0.40821073)  # of the authors' preprocessing
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class CLIPViTConfig:
    """image_size, patch_size: sides in pixels; other images get their positions interpolated. dim: width of a token.
    embed_dim: width of what images and texts share. quick_gelu: x sigmoid(1.702 x) as the activation, else GELU.
    antialias: of positions for a smaller grid, which timm has and transformers has not. drop_path: rate at the last
    block; earlier blocks have linearly less."""

    image_size: int = 224
    patch_size: int = 16
    dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    embed_dim: int = 512
    quick_gelu: bool = True
    antialias: bool = True
    drop_path: float = 0.0
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        require_tokens(self.image_size, self.patch_size, self.dim, self.num_heads, self.mlp_ratio)
        positive(depth=self.depth, embed_dim=self.embed_dim, in_channels=self.in_channels,
                 num_classes=self.num_classes)
        boolean(quick_gelu=self.quick_gelu, antialias=self.antialias)
        probability(drop_path=self.drop_path)


class CLIPViT(nn.Module):
    Config = CLIPViTConfig

    def __init__(self, config: CLIPViTConfig):
        super().__init__()
        self.config = config
        dim, hidden = config.dim, int(config.dim * config.mlp_ratio)
        self.num_prefix_tokens = 1
        self.patch_embed = PatchStem(config.in_channels, dim, config.image_size, config.patch_size, any_size=True,
                                     bias=False)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + self.patch_embed.side**2, dim))
        self.norm_pre = nn.LayerNorm(dim, eps=NORM_EPS)
        activation = QuickGELU if config.quick_gelu else nn.GELU
        rates = [config.drop_path * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks = TokenBlocks(*[
            PreNormBlock(dim, config.num_heads, hidden, 0.0, rate, mlp=MLP(dim, hidden, activation=activation),
                         norm_eps=NORM_EPS) for rate in rates])
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.proj = nn.Linear(dim, config.embed_dim, bias=False)
        self.head = nn.Linear(dim, config.num_classes)
        self.feature_channels = (dim,)
        self.feature_strides = (config.patch_size,)
        initialise_tokens(self)
        nn.init.normal_(self.proj.weight, std=dim**-0.5)  # the authors'

    def tokens(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> normalised tokens [B, 1 + N, dim], class token first. Raises UserError unless H and W are
        multiples of patch_size."""
        grid = self.patch_embed.grid(images)
        tokens = torch.cat([self.cls_token.expand(images.shape[0], -1, -1), self.patch_embed(images)], dim=1)
        tokens = tokens + sized_positions(self.pos_embed, grid, 1, self.config.antialias)
        return self.norm(self.blocks(self.norm_pre(tokens), grid))

    def embed(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, embed_dim], not yet of unit length: what the contrastive objective compares with the
        embeddings of texts."""
        return self.proj(self.tokens(images)[:, 0])

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> one map [B, dim, H / patch_size, W / patch_size]: the patches' last tokens."""
        return [maps_of(self.tokens(images)[:, 1:], self.patch_embed.grid(images))]

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.tokens(images)[:, 0])

    def adapt(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """The state with its positions resized to this model's grid, and with this model's head or projection where
        it has none; and what was done in words."""
        state, notes = fit_positions(state, self.pos_embed, 1, self.config.antialias)
        for name, what in (("head", "classifier"), ("proj", "projection")):
            state, more = fresh_head(state, self, name, what)
            notes += more
        return state, notes


def from_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A timm state dict under our names. timm has one last layer: in files of the authors' weights it is the
    projection, which has no bias (timm stores zeros), in fine-tuned ones a classifier, whose bias is not zero."""
    out = dict(state)
    bias = out.get("head.bias")
    if "head.weight" in out and (bias is None or not bias.any()):
        out["proj.weight"] = out.pop("head.weight")
        out.pop("head.bias", None)
    return out


_FROM_ORIGINAL = (  # in order
    (r"^(?:module\.)?visual\.", ""), (r"^conv1\.", "patch_embed.proj."), (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"), (r"^ln_pre\.", "norm_pre."), (r"^ln_post\.", "norm."),
    (r"^proj$", "proj.weight"), (r"^transformer\.resblocks\.", "blocks."), (r"\.ln_([12])\.", r".norm\1."),
    (r"\.attn\.in_proj_", ".attn.qkv."), (r"\.attn\.out_proj\.", ".attn.proj."), (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)


def _with_axes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """cls_token [dim] and pos_embed [N, dim] with the axes that ours have in front."""
    for name, axes in (("cls_token", 3), ("pos_embed", 3)):
        if name in state:
            state[name] = state[name].reshape((1,) * (axes - state[name].ndim) + state[name].shape)
    return state


def from_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image tower of OpenAI's state dict (`visual.*`; the text tower is left out) under our names."""
    tower = {name: tensor for name, tensor in state.items() if name.removeprefix("module.").startswith("visual.")}
    out = _with_axes(rename(tower, _FROM_ORIGINAL))
    if "proj.weight" in out:
        out["proj.weight"] = out["proj.weight"].T
    return out


_FROM_TRANSFORMERS = (  # in order
    (r"^vision_model\.", ""), (r"^embeddings\.class_embedding$", "cls_token"),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^pre_layrnorm\.", "norm_pre."), (r"^post_layernorm\.", "norm."), (r"^visual_projection\.", "proj."),
    (r"^encoder\.layers\.", "blocks."), (r"\.layer_norm([12])\.", r".norm\1."),
    (r"\.self_attn\.([qkv])_proj\.", r".attn.\1."), (r"\.self_attn\.out_proj\.", ".attn.proj."),
)


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A transformers state dict (CLIPVisionModelWithProjection, or the image tower of a CLIPModel, whose text tower is
    left out) under our names: queries, keys and values are joined."""
    tower = {name: tensor for name, tensor in state.items()
             if name.startswith(("vision_model.", "visual_projection.")) and not name.endswith("position_ids")}
    return _with_axes(join_parts(rename(tower, _FROM_TRANSFORMERS), ("q", "k", "v"), "qkv"))


VARIANTS = {
    "clip_vit_base_32": {"patch_size": 32, "dim": 768, "depth": 12, "num_heads": 12, "embed_dim": 512},
    "clip_vit_base_16": {"patch_size": 16, "dim": 768, "depth": 12, "num_heads": 12, "embed_dim": 512},
    "clip_vit_large_14": {"patch_size": 14, "dim": 1024, "depth": 24, "num_heads": 16, "embed_dim": 768},
    "clip_vit_large_14_336": {"image_size": 336, "patch_size": 14, "dim": 1024, "depth": 24, "num_heads": 16,
                              "embed_dim": 768},
}

_TABLE_10 = "Radford et al. 2021, Table 10, linear probe (from memory); 400 million image-text pairs (WIT)"
PUBLISHED = {name: [{"what": "top1", "value": top1, "data": "ImageNet-1k", "source": _TABLE_10}]
             for name, top1 in (("clip_vit_base_32", "76.1"), ("clip_vit_base_16", "80.2"),
                                ("clip_vit_large_14", "83.9"), ("clip_vit_large_14_336", "85.4"))}

PEERS = {
    "clip_vit_base_32": ("timm", "vit_base_patch32_clip_quickgelu_224"),
    "clip_vit_base_16": ("timm", "vit_base_patch16_clip_quickgelu_224"),
    "clip_vit_large_14": ("timm", "vit_large_patch14_clip_quickgelu_224"),
    "clip_vit_large_14_336": ("timm", "vit_large_patch14_clip_quickgelu_336"),
}

_LICENCE = "MIT (OpenAI); trained on 400 million image-text pairs"
_HUB = "https://openaipublic.azureedge.net/clip/models/"
_FILES = {  # timm's, transformers' and OpenAI's, a TorchScript archive: torch.jit.load(...).state_dict() reads it
    "clip_vit_base_32": ("vit_base_patch32_clip_224.openai", "openai/clip-vit-base-patch32", "ViT-B-32.pt"),
    "clip_vit_base_16": ("vit_base_patch16_clip_224.openai", "openai/clip-vit-base-patch16", "ViT-B-16.pt"),
    "clip_vit_large_14": ("vit_large_patch14_clip_224.openai", "openai/clip-vit-large-patch14", "ViT-L-14.pt"),
    "clip_vit_large_14_336": ("vit_large_patch14_clip_336.openai", "openai/clip-vit-large-patch14-336",
                              "ViT-L-14-336px.pt"),
}
WEIGHTS = {
    name: {"timm": {"file": timm, "licence": _LICENCE},
           "transformers": {"file": hub, "licence": _LICENCE, "config": {"antialias": False}},
           "original": {"file": original, "licence": _LICENCE}}
    for name, (timm, hub, original) in _FILES.items()}


def _register(variants: Mapping[str, Mapping[str, object]], size: int, **about: object) -> None:
    models.add(CLIPViT, variants, WEIGHTS, family="clip_vit", task="classification", published=PUBLISHED, peers=PEERS,
               origins={"timm": from_timm, "transformers": from_transformers, "original": from_original},
               paper="Radford et al.: Learning Transferable Visual Models From Natural Language Supervision, ICML "
                     "2021, arXiv:2103.00020",
               preprocessing={"size": (size, size), "resize": "crop", "crop_fraction": 1.0,
                              "interpolation": "bicubic", "mean": MEAN, "std": STD}, **about)


_register({name: numbers for name, numbers in VARIANTS.items() if "image_size" not in numbers}, 224)
_register({name: numbers for name, numbers in VARIANTS.items() if "image_size" in numbers}, 336,
          fingerprint_size=112, peer_options={"dynamic_img_size": True})
