"""From float values to 8-bit ones.

R rows, K inputs, N outputs, V vocabulary, D hidden, G blocks of a row, S values of a block.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
LIMIT = 127  # of a signed 8-bit value; -128 is not used, so that signs are symmetric
LEAST_SCALE = 2.0**-14  # of a block of 4-bit values: float16's least normal number


def quantize_columns(weight_KN: Floats, reduce_range: bool) -> tuple[NDArray[np.int8], Floats]:
    """(Wq [K, N] int8, s [N] float32), symmetric per column: Wq = round(W / s); a column of zeros gets scale 1.

    s_n = max_k |W_kn| / 127, or with `reduce_range` max_j (|W_2j,n| + |W_2j+1,n|) / 127. AVX2 and AVX-512 without VNNI
    multiply u8 by s8 and add neighbours k = 2j, 2j + 1 in 16 bits that saturate. The second scale keeps
    |Wq_2j| + |Wq_2j+1| <= 128, hence |sum| <= 255 * 128 = 32,640 < 2^15: exact there too, with steps about a quarter finer
    than 7-bit weights (the usual way out, max_k |W_kn| / 63) have. Raises ValueError for weights that are not finite.
    """
    magnitude_KN = np.abs(weight_KN)
    if reduce_range:
        count_K, count_N = weight_KN.shape
        padded = np.concatenate([magnitude_KN, np.zeros((count_K % 2, count_N), np.float32)])
        magnitude_KN = padded[0::2] + padded[1::2]
    values, scale = _symmetric(weight_KN, magnitude_KN.max(axis=0, keepdims=True))
    return values, scale.reshape(-1)


def quantize_rows(table_VD: Floats) -> tuple[NDArray[np.int8], Floats]:
    """(Eq [V, D] int8, u [V, 1] float32), symmetric per row: u_v = max_d |E_vd| / 127. ValueError: not finite."""
    return _symmetric(table_VD, np.abs(table_VD).max(axis=1, keepdims=True))


def quantize_blocks(table_VD: Floats, block: int) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """4-bit values, two in a byte, with a scale for each block: (packed [V, G, S/2], c [V, G, 1] float16).

    E ~ c (q - 8), q in 0 … 15. c = -m / 8 with m the value of largest magnitude, so that m itself is q = 0 and of the
    sixteen values none is wasted: |error| <= |c| / 2, or |c| for a value near -m; c is at least 2^-14 in magnitude, the
    least normal float16. A byte holds value i of its block in the low and value i + S/2 in the high bits.
    ValueError: not finite, or beyond float16's range.
    """
    if not np.isfinite(table_VD).all():
        raise ValueError("a weight matrix holds NaN or Inf")
    blocks_VGS = table_VD.reshape(len(table_VD), -1, block)
    low, high = blocks_VGS.min(axis=2, keepdims=True), blocks_VGS.max(axis=2, keepdims=True)
    scale: NDArray[np.float16] = (np.where(high >= -low, high, low) / np.float32(-8)).astype(np.float16)
    scale[np.abs(scale) < LEAST_SCALE] = LEAST_SCALE
    if not np.isfinite(scale).all():
        raise ValueError("a weight matrix holds values beyond float16's range")
    codes = (np.clip(np.rint(blocks_VGS / scale.astype(np.float32)), -8, 7) + 8).astype(np.uint8)
    packed: NDArray[np.uint8] = np.bitwise_or(codes[:, :, : block // 2], np.left_shift(codes[:, :, block // 2 :], np.uint8(4)))
    return packed, scale


def _symmetric(values: Floats, largest: Floats) -> tuple[NDArray[np.int8], Floats]:
    if not np.isfinite(largest).all():
        raise ValueError("a weight matrix holds NaN or Inf")
    scale = np.where(largest > 0, largest / np.float32(LIMIT), np.float32(1)).astype(np.float32)
    return np.clip(np.rint(values / scale), -LIMIT, LIMIT).astype(np.int8), scale


@dataclass(frozen=True)
class Affine:
    """Asymmetric 8-bit values: x ~ scale (q - zero), q in 0 … 255."""

    scale: float
    zero: int

    @classmethod
    def covering(cls, low: float, high: float) -> "Affine":
        """The finest that covers [low, high] and, exactly, zero."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = float(np.float32(max(high - low, 1e-9) / 255))
        return cls(scale, int(np.clip(np.rint(-low / scale), 0, 255)))

    def rounded(self, values: Floats) -> Floats:
        """What becomes of `values`: scale (clip(round(x / scale) + zero, 0, 255) - zero)."""
        scale, zero = np.float32(self.scale), np.float32(self.zero)
        return np.asarray((np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale, dtype=np.float32)
