"""The two halves of the mask VQ-VAE as Flax modules.

Source of the architecture: google-research/big_vision, `big_vision/pp/proj/paligemma/segmentation.py`, and the array
shapes of `vae-oid.npz`. Module names follow the positions in the checkpoint (`layer_4` is `decoder.4`).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mask_vae import layout


class _Residual(nn.Module):
    """x + conv1x1(relu(conv3x3(relu(conv3x3(x)))))."""

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        outputs = inputs
        last, _ = layout.RESIDUAL_CONVS[-1]
        for position, kernel in layout.RESIDUAL_CONVS:
            conv = nn.Conv(layout.HIDDEN_SIZE, (kernel, kernel), padding=kernel // 2, name=f"net_{position}")
            outputs = conv(outputs)
            if position != last:
                outputs = nn.relu(outputs)
        return inputs + outputs


class _Upsample(nn.Module):
    """A transposed convolution of 4x4 taps, with PyTorch's stride 2 and padding 1: doubles height and width.

    One matrix product gives every tap of every input, and the taps that meet in an output are added up. XLA's own
    transposed convolution multiplies by the zeros that it puts between the inputs, and takes up to twice as long.
    """

    width: int

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """float32[N, H, W, channels] -> float32[N, 2H, 2W, width]."""
        count, height, width, channels = inputs.shape
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (channels, 4, 4, self.width))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        taps = jnp.tensordot(inputs, kernel, axes=1)  # [N, H, W, 4, 4, width]
        rows = _add_taps(taps, axis=1, tap_axis=3)  # [N, H, 2, W, 4, width]
        outputs = _add_taps(rows, axis=3, tap_axis=4)  # [N, H, 2, W, 2, width]
        return outputs.reshape(count, 2 * height, 2 * width, self.width) + bias


def _add_taps(parts: jax.Array, *, axis: int, tap_axis: int) -> jax.Array:
    """Adds up the taps that meet: outputs 2i and 2i + 1 lie along a new axis after that of the inputs i.

    Tap t of input i falls on output 2i + t - 1:

        output   2i - 1    2i       2i + 1   2i + 2
        input i  tap 0     tap 1    tap 2    tap 3
    """
    before, even, odd, after = (jax.lax.index_in_dim(parts, tap, tap_axis, keepdims=False) for tap in range(4))
    return jnp.stack([even + _shift(after, 1, axis), odd + _shift(before, -1, axis)], axis + 1)


def _shift(values: jax.Array, steps: int, axis: int) -> jax.Array:
    """Moves values along an axis; zeros come in."""
    padding = [(0, 0, 0)] * values.ndim
    padding[axis] = (steps, -steps, 0)
    return jax.lax.pad(values, jnp.zeros((), values.dtype), padding)


class Encoder(nn.Module):
    """Masks to the vectors that are matched against the codebook."""

    @nn.compact
    def __call__(self, masks: jax.Array) -> jax.Array:
        """float32[N, 64, 64, 1] in [-1, 1] -> float32[N, 4, 4, 512]."""
        hidden = masks
        for position, width in zip(layout.ENCODER_STRIDED, layout.ENCODER_WIDTHS, strict=True):
            hidden = nn.relu(nn.Conv(width, (4, 4), strides=(2, 2), padding=1, name=f"layer_{position}")(hidden))
        for position in layout.ENCODER_RESIDUAL:
            hidden = _Residual(name=f"layer_{position}")(hidden)
        head = nn.Conv(layout.EMBEDDING_SIZE, (1, 1), name=f"layer_{layout.ENCODER_HEAD}")
        return head(hidden)


class Decoder(nn.Module):
    """Codebook vectors to masks."""

    @nn.compact
    def __call__(self, vectors: jax.Array) -> jax.Array:
        """float32[N, 4, 4, 512] -> float32[N, 64, 64, 1], about [-1, 1], not clipped."""
        hidden = nn.relu(nn.Conv(layout.HIDDEN_SIZE, (1, 1), name=f"layer_{layout.DECODER_STEM}")(vectors))
        for position in layout.DECODER_RESIDUAL:
            hidden = _Residual(name=f"layer_{position}")(hidden)
        for position, width in zip(layout.DECODER_STRIDED, layout.DECODER_WIDTHS, strict=True):
            hidden = nn.relu(_Upsample(width, name=f"layer_{position}")(hidden))
        return nn.Conv(1, (1, 1), name=f"layer_{layout.DECODER_HEAD}")(hidden)
