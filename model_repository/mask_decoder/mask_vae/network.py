"""The two halves of the mask VQ-VAE as Flax modules.

Source of the architecture: google-research/big_vision, `big_vision/pp/proj/paligemma/segmentation.py`, and the array
shapes of `vae-oid.npz`. Module names follow the positions in the checkpoint (`layer_4` is `decoder.4`).
"""

import flax.linen as nn
import jax

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
            # PyTorch's padding 1 of a 4-wide transposed kernel crops the output; JAX pads the input: 4 - 1 - 1 = 2.
            upsample = nn.ConvTranspose(
                width, (4, 4), strides=(2, 2), padding=2, transpose_kernel=True, name=f"layer_{position}"
            )
            hidden = nn.relu(upsample(hidden))
        return nn.Conv(1, (1, 1), name=f"layer_{layout.DECODER_HEAD}")(hidden)
