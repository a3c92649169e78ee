"""The two towers of open_clip's plain CLIP models (Radford et al. 2021, section 2.4), computed for inference only.

The results equal open_clip's except for rounding, with less work: tensors stay contiguous (oneDNN multiplies the
transposed ones of `nn.MultiheadAttention` several times more slowly in bfloat16), the last block computes only the
pooled position, and texts are cut at the end of the longest one in the batch instead of the model's context: attention
is causal, so nothing after the end of a text changes its embedding. The residual stream is float32 in any precision.
A model with another architecture keeps its own forward pass.
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
        pooled_at = torch.zeros(len(pixels), dtype=torch.long)
        pooled = visual.ln_post(_run_blocks(visual.transformer, stream, pooled_at, False))
        projected: Tensor = pooled @ visual.proj.float()
        return projected


class TextTower:
    """A causal text transformer that pools the token with the largest id, which is the end of the text."""

    def __init__(self, text: Any) -> None:
        self._text = text

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return (n, d) float32 embeddings, of any length, of (n, context) tokens; none after the last end is read."""
        text, pooled_at = self._text, tokens.argmax(dim=1)
        tokens = tokens[:, : int(pooled_at.max()) + 1]
        stream = text.token_embedding(tokens) + text.positional_embedding[: tokens.shape[1]]
        pooled: Tensor = text.ln_final(_run_blocks(text.transformer, stream, pooled_at, True))
        projection = text.text_projection
        if isinstance(projection, nn.Linear):
            return F.linear(pooled, projection.weight.float(), projection.bias)
        return pooled if projection is None else pooled @ projection.float()


def image_tower(model: Any) -> ImageTower | None:
    """Return the image tower of an open_clip model, None where its architecture is another."""
    from open_clip.transformer import VisionTransformer

    visual = model.visual
    plain = type(visual) is VisionTransformer and visual.attn_pool is None and visual.pool_type == "tok"
    return ImageTower(visual) if plain and not visual.output_tokens and _has_plain_blocks(visual.transformer) else None


def text_tower(model: Any) -> TextTower | None:
    """Return the text tower of an open_clip model, None where its architecture is another."""
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
    if pool != "argmax" or text.attn_mask is None or not _has_plain_blocks(text.transformer):
        return None
    causal = torch.full_like(text.attn_mask, float("-inf")).triu(1)
    return TextTower(text) if torch.equal(text.attn_mask, causal) else None


def _has_plain_blocks(transformer: Any) -> bool:
    """Return whether the blocks are those that `_run_block` computes."""
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


def _run_blocks(transformer: Any, stream: Tensor, pooled_at: Tensor, causal: bool) -> Tensor:
    """Return (n, width): the position `pooled_at`, (n,), of each row of (n, length, width) after all blocks."""
    *blocks, last = transformer.resblocks
    for block in blocks:
        stream = _run_block(block, stream, None, causal)
    return _run_block(last, stream, pooled_at, causal)


def _run_block(block: Any, stream: Tensor, pooled_at: Tensor | None, causal: bool) -> Tensor:
    """Return (n, length, width) float32 after a pre-norm block; with `pooled_at` that position alone, (n, width)."""
    attention = block.attn
    count, length, width = stream.shape
    weight, bias, heads = attention.in_proj_weight, attention.in_proj_bias, attention.num_heads
    normed = block.ln_1(stream).to(weight.dtype)
    query_input, mask = normed, None
    if pooled_at is not None:
        rows = torch.arange(count)
        query_input, stream = normed[rows, pooled_at][:, None], stream[rows, pooled_at][:, None]
        if causal:
            mask = (torch.arange(length) <= pooled_at[:, None])[:, None, None]
    query = F.linear(query_input, weight[:width], bias[:width]).view(count, -1, heads, width // heads).transpose(1, 2)
    key_value = F.linear(normed, weight[width:], bias[width:]).view(count, length, 2, heads, width // heads)
    key, value = key_value.permute(2, 0, 3, 1, 4)
    attended = F.scaled_dot_product_attention(query, key, value, mask, is_causal=causal and pooled_at is None)
    attended = attended.transpose(1, 2).reshape(count, -1, width)
    stream = stream + block.ls_1(F.linear(attended, attention.out_proj.weight, attention.out_proj.bias))
    stream = stream + block.ls_2(block.mlp(block.ln_2(stream).to(weight.dtype)))
    return stream if pooled_at is None else stream[:, 0]
