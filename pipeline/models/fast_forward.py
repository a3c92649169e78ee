"""The two towers of open_clip's plain CLIP models (Radford et al. 2021, section 2.4), computed for inference alone.

The results are open_clip's but for rounding, at less work: tensors stay contiguous (oneDNN multiplies the transposed
ones that `nn.MultiheadAttention` makes of them several times more slowly in bfloat16), the last block computes the one
position that is pooled, and a text ends where its longest neighbour does, not at the model's context: attention is
causal, so nothing behind the end of a text changes its embedding. What runs through the blocks is float32 in any
precision. A model that is built otherwise keeps its own forward.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ImageTower:
    """A vision transformer that pools its class token."""

    def __init__(self, visual: Any) -> None:
        self._visual = visual

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return (n, d) float32 embeddings, of any length, of (n, 3, height, width) normalised pixels."""
        visual = self._visual
        patches = visual.conv1(pixels.to(visual.conv1.weight.dtype)).flatten(2).transpose(1, 2).float()
        token = visual.class_embedding.expand(len(pixels), 1, -1)
        stream = visual.ln_pre(torch.cat([token, patches], dim=1) + visual.positional_embedding)
        at = torch.zeros(len(pixels), dtype=torch.long)
        pooled = visual.ln_post(_through(visual.transformer, stream, at, False))
        projected: Tensor = pooled @ visual.proj.float()
        return projected


class TextTower:
    """A causal text transformer that pools the token of the largest number, which is the text's end."""

    def __init__(self, text: Any) -> None:
        self._text = text

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return (n, d) float32 embeddings, of any length, of (n, context) tokens, those behind the last end unread."""
        text, at = self._text, tokens.argmax(dim=1)
        tokens = tokens[:, : int(at.max()) + 1]
        stream = text.token_embedding(tokens) + text.positional_embedding[: tokens.shape[1]]
        pooled: Tensor = text.ln_final(_through(text.transformer, stream, at, True))
        projection = text.text_projection
        if isinstance(projection, nn.Linear):
            return F.linear(pooled, projection.weight.float(), projection.bias)
        return pooled if projection is None else pooled @ projection.float()


def image_tower(model: Any) -> ImageTower | None:
    """Return the tower of an open_clip model's images, None where it is built otherwise."""
    from open_clip.transformer import VisionTransformer

    visual = model.visual
    plain = type(visual) is VisionTransformer and visual.attn_pool is None and visual.pool_type == "tok"
    return ImageTower(visual) if plain and not visual.output_tokens and _plain(visual.transformer) else None


def text_tower(model: Any) -> TextTower | None:
    """Return the tower of an open_clip model's texts, None where it is built otherwise."""
    from open_clip.model import CLIP, CustomTextCLIP
    from open_clip.transformer import TextTransformer

    if type(model) is CustomTextCLIP and type(model.text) is TextTransformer:
        text, pool = model.text, model.text.pool_type
        if text.cls_emb is not None or text.use_pad_mask or text.output_tokens:
            return None
    elif type(model) is CLIP:
        text, pool = model, model.text_pool_type
    else:
        return None
    if pool != "argmax" or text.attn_mask is None or not _plain(text.transformer):
        return None
    causal = torch.full_like(text.attn_mask, float("-inf")).triu(1)
    return TextTower(text) if torch.equal(text.attn_mask, causal) else None


def _plain(transformer: Any) -> bool:
    """Tell whether the blocks are those that `_block` computes."""
    from open_clip.transformer import LayerNorm, LayerNormFp32, ResidualAttentionBlock, Transformer

    return type(transformer) is Transformer and all(
        type(block) is ResidualAttentionBlock
        and type(block.attn) is nn.MultiheadAttention
        and block.attn.in_proj_weight is not None
        and block.attn.in_proj_bias is not None
        and block.attn.bias_k is None
        and not hasattr(block, "ln_1_kv")
        and {type(block.ln_1), type(block.ln_2)} <= {LayerNorm, LayerNormFp32}
        for block in transformer.resblocks
    )


def _through(transformer: Any, stream: Tensor, at: Tensor, causal: bool) -> Tensor:
    """Return (n, width) of the position `at`, (n,), of each row of (n, length, width) behind all blocks."""
    *blocks, last = transformer.resblocks
    for block in blocks:
        stream = _block(block, stream, None, causal)
    return _block(last, stream, at, causal)


def _block(block: Any, stream: Tensor, at: Tensor | None, causal: bool) -> Tensor:
    """Return (n, length, width) float32 behind a pre-norm block; with `at` that one position of each, (n, width)."""
    attention = block.attn
    count, length, width = stream.shape
    weight, bias, heads = attention.in_proj_weight, attention.in_proj_bias, attention.num_heads
    normed = block.ln_1(stream).to(weight.dtype)
    asking, mask = normed, None
    if at is not None:
        rows = torch.arange(count)
        asking, stream = normed[rows, at][:, None], stream[rows, at][:, None]
        if causal:
            mask = (torch.arange(length) <= at[:, None])[:, None, None]
    query = F.linear(asking, weight[:width], bias[:width]).view(count, -1, heads, width // heads).transpose(1, 2)
    both = F.linear(normed, weight[width:], bias[width:]).view(count, length, 2, heads, width // heads)
    key, value = both.permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(query, key, value, mask, is_causal=causal and at is None)
    mixed = mixed.transpose(1, 2).reshape(count, -1, width)
    stream = stream + block.ls_1(F.linear(mixed, attention.out_proj.weight, attention.out_proj.bias))
    stream = stream + block.ls_2(block.mlp(block.ln_2(stream).to(weight.dtype)))
    return stream if at is None else stream[:, 0]
