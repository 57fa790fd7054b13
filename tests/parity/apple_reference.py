"""MobileCLIP in Apple's layout: slow, plain, float64, nothing folded, from the description alone.

Apple's own package can't be a dependency, and S0's text tower is in no other. `faults` names known
mistakes to make on purpose: the tests show that each is seen.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tests.lazy import lazy
from tests.parity.small import Arrays

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F  # noqa: N812

    Tensor: TypeAlias = torch.Tensor
else:
    torch, F = lazy("torch"), lazy("torch.nn.functional")


class Apple:
    """The towers of one checkpoint."""

    def __init__(self, arrays: Arrays, faults: Collection[str] = ()) -> None:
        torch.set_num_threads(1)  # tensors this small only lose by more
        self.arrays = arrays
        self.faults = faults
        self.transformer_sees = "image_encoder.model.cls_token" in arrays

    # ── parts ──

    def get(self, name: str) -> Tensor:
        return torch.tensor(self.arrays[name]).double()

    def has(self, name: str) -> bool:
        return name in self.arrays

    def count(self, prefix: str) -> int:
        found = {
            name[len(prefix) :].split(".")[0] for name in self.arrays if name.startswith(prefix)
        }
        return len(found)

    def batch_norm(self, x: Tensor, name: str) -> Tensor:
        mean, var = self.get(f"{name}.running_mean"), self.get(f"{name}.running_var")
        return F.batch_norm(
            x, mean, var, self.get(f"{name}.weight"), self.get(f"{name}.bias"), eps=1e-5
        )

    def layer_norm(self, x: Tensor, name: str, eps: float = 1e-5) -> Tensor:
        weight = self.get(f"{name}.weight")
        return F.layer_norm(x, weight.shape, weight, self.get(f"{name}.bias"), eps)

    def conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = self.get(f"{name}.weight")
        bias = self.get(f"{name}.bias") if self.has(f"{name}.bias") else None
        groups = x.shape[1] // weight.shape[1]
        padding = (weight.shape[2] // 2, weight.shape[3] // 2)
        return F.conv2d(x, weight, bias, stride, padding, groups=groups)

    def conv_norm(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        return self.batch_norm(self.conv(x, f"{name}.conv", stride), f"{name}.bn")

    def linear(self, x: Tensor, name: str) -> Tensor:
        bias = self.get(f"{name}.bias") if self.has(f"{name}.bias") else None
        return F.linear(x, self.get(f"{name}.weight"), bias)

    def gelu(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh" if "tanh gelu" in self.faults else "none")

    def squeeze_excite(self, x: Tensor, first: str, second: str) -> Tensor:
        gate = F.relu(self.conv(x.mean((2, 3), keepdim=True), first))
        return x * torch.sigmoid(self.conv(gate, second))

    def branches(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        total = self.conv_norm(x, f"{name}.rbr_conv.0", stride)
        if self.has(f"{name}.rbr_scale.conv.weight") and "no scale branch" not in self.faults:
            total = total + self.conv_norm(x, f"{name}.rbr_scale", stride)
        if self.has(f"{name}.rbr_skip.weight") and "no skip branch" not in self.faults:
            total = total + self.batch_norm(x, f"{name}.rbr_skip")
        return total

    def unit(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        x = self.branches(x, name, stride)
        if self.has(f"{name}.se.reduce.weight"):
            x = self.squeeze_excite(x, f"{name}.se.reduce", f"{name}.se.expand")
        return self.gelu(x)

    def conv_mlp(self, x: Tensor, name: str) -> Tensor:
        y = self.conv_norm(x, f"{name}.convffn.conv")
        return self.conv(self.gelu(self.conv(y, f"{name}.convffn.fc1")), f"{name}.convffn.fc2")

    def mixer_block(self, x: Tensor, name: str) -> Tensor:
        mixed = self.branches(x, f"{name}.token_mixer.mixer")
        normed = self.batch_norm(x, f"{name}.token_mixer.norm.rbr_skip")
        change = mixed + normed if "norm added" in self.faults else mixed - normed
        x = x + self.get(f"{name}.token_mixer.layer_scale") * change
        return x + self.get(f"{name}.layer_scale") * self.conv_mlp(x, name)

    def heads(self, x: Tensor, qkv: str, heads: int, causal: bool = False) -> Tensor:
        """x [B, L, W] -> [B, L, W], before the last projection."""
        batch, length, width = x.shape
        split = self.linear(x, qkv).reshape(batch, length, 3, heads, width // heads)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        scores: Tensor = q @ k.transpose(-1, -2) * (width // heads) ** -0.5
        if causal:
            scores = scores.masked_fill(~torch.ones(length, length).tril().bool(), -torch.inf)
        joined: Tensor = (scores.softmax(-1) @ v).transpose(1, 2)
        return joined.reshape(batch, length, width)

    def attention_block(self, x: Tensor, name: str) -> Tensor:
        batch, width, high, wide = x.shape
        y = self.batch_norm(x, f"{name}.norm").flatten(2).transpose(1, 2)
        y = self.heads(y, f"{name}.token_mixer.qkv", width // 32)
        y = self.linear(y, f"{name}.token_mixer.proj").transpose(1, 2)
        x = x + self.get(f"{name}.layer_scale_1") * y.reshape(batch, width, high, wide)
        return x + self.get(f"{name}.layer_scale_2") * self.conv_mlp(x, name)

    def transformer_block(self, x: Tensor, name: str, causal: bool, eps: float = 1e-5) -> Tensor:
        y = self.layer_norm(x, f"{name}.pre_norm_mha.0", eps)
        y = self.heads(y, f"{name}.pre_norm_mha.1.qkv_proj", x.shape[2] // 64, causal)
        x = x + self.linear(y, f"{name}.pre_norm_mha.1.out_proj")
        y = self.layer_norm(x, f"{name}.pre_norm_ffn.0", eps)
        y = self.gelu(self.linear(y, f"{name}.pre_norm_ffn.1"))
        return x + self.linear(y, f"{name}.pre_norm_ffn.4")

    # ── towers ──

    def images(self, pictures: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
        """uint8 [h, w, 3] each -> unit vectors."""
        x = torch.tensor(np.stack(pictures)).permute(0, 3, 1, 2).double() / 255
        if "mean and std" in self.faults:
            x = (x - 0.5) / 0.5
        with torch.no_grad():
            see = self.see_by_transformer if self.transformer_sees else self.see_by_convolution
            return np.asarray(F.normalize(see(x), dim=1).numpy())

    def see_by_convolution(self, x: Tensor) -> Tensor:
        root = "image_encoder.model."
        x = self.unit(x, f"{root}patch_embed.0", 2)
        x = self.unit(x, f"{root}patch_embed.1", 2)
        x = self.unit(x, f"{root}patch_embed.2")
        for index in range(8):
            name = f"{root}network.{index}"
            if index in (1, 3, 5):
                large = self.conv_norm(x, f"{name}.proj.0.lkb_origin", 2)
                x = large + self.conv_norm(x, f"{name}.proj.0.small_conv", 2)
                if index > 1:
                    x = self.squeeze_excite(x, f"{name}.proj.0.se.fc1", f"{name}.proj.0.se.fc2")
                x = self.unit(self.gelu(x), f"{name}.proj.1")
            elif index == 6:
                x = x + self.conv(x, f"{name}.pe")
            else:
                for block in range(self.count(f"{name}.")):
                    run = self.attention_block if index == 7 else self.mixer_block
                    x = run(x, f"{name}.{block}")
        mean: Tensor = self.unit(x, f"{root}conv_exp").mean((2, 3))
        return mean @ self.get(f"{root}head.proj")

    def see_by_transformer(self, x: Tensor) -> Tensor:
        root = "image_encoder.model."
        for index in range(3):
            name = f"{root}patch_emb.{index}.block"
            weight = self.get(f"{name}.conv.weight")
            padding = 1 if index == 0 and "first padding 0" not in self.faults else 0
            x = F.conv2d(x, weight, stride=weight.shape[-1], padding=padding)
            if index < 2:
                x = self.gelu(self.batch_norm(x, f"{name}.norm"))
        x = x + self.get(f"{root}patch_emb.2.block.conv.bias")[:, None, None]
        x = x.flatten(2).transpose(1, 2) + self.get(f"{root}pos_embed.pos_embed.pos_embed")[0]
        token = self.get(f"{root}cls_token").expand(len(x), 1, -1)
        x = torch.cat([token, x], 1)
        eps = 1e-6 if "timm's eps" in self.faults else 1e-5
        for block in range(self.count(f"{root}transformer.")):
            x = self.transformer_block(x, f"{root}transformer.{block}", False, eps)
        x = self.layer_norm(x, f"{root}post_transformer_norm", eps)
        return x[:, 0] @ self.get(f"{root}classifier.proj")

    def texts(self, rows: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
        """int32 ids of one length -> unit vectors."""
        causal = self.transformer_sees != ("causal swapped" in self.faults)
        ids = torch.tensor(np.stack(rows)).long()
        with torch.no_grad():
            x = F.embedding(ids, self.get("text_encoder.embedding_layer.weight"))
            places = self.get("text_encoder.positional_embedding.pos_embed.pos_embed")[0, 0]
            x = x + places[: ids.shape[1]]
            for block in range(self.count("text_encoder.transformer.")):
                name = f"text_encoder.transformer.{block}"
                if self.has(f"{name}.token_mixer.layer_scale"):
                    row = self.mixer_block(x.transpose(1, 2)[:, :, None], name)
                    x = row[:, :, 0].transpose(1, 2)
                else:
                    x = self.transformer_block(x, name, causal)
            x = self.layer_norm(x, "text_encoder.final_layer_norm")
            last = -1 if "last place" in self.faults else ids.argmax(1)
            matrix = self.get("text_encoder.projection_layer")
            if "projection transposed" in self.faults:
                matrix = matrix.T
            return np.asarray(F.normalize(x[torch.arange(len(x)), last] @ matrix, dim=1).numpy())
