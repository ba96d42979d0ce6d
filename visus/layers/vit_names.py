"""Names of transformers' plain ViT under ours."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from visus.core.rename import join_parts, rename

_PATTERNS = (  # in order; a file has the names of before transformers 5, a model those of today
    (r"^vit\.", ""), (r"^classifier\.", "head."), (r"^layernorm\.", "norm."), (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(?:encoder\.layer|layers)\.", "blocks."), (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."), (r"\.attention\.(?:attention\.query|q_proj)\.", ".attn.q."),
    (r"\.attention\.(?:attention\.key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(?:attention\.value|v_proj)\.", ".attn.v."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."), (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)


def from_transformers_vit(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of transformers' ViTModel or ViTMAEModel, or of a model that has one as `vit`, under the names of
    layers.vit_blocks: queries, keys and values are joined, and a pooler is left out."""
    out = join_parts(rename(state, _PATTERNS), ("q", "k", "v"), "qkv")
    return {name: tensor for name, tensor in out.items() if not name.startswith("pooler.")}
