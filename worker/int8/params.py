"""Which matrices become INT8, in one place: the quantizers of a graph and the fake quantization of a model ask here."""

from typing import Literal

from pydantic import Field

from worker.plugins import PluginParams

_FOUR_BITS_FROM = 128  # times min_elements


class MatrixParams(PluginParams):
    """What every INT8 scheme says about matrices."""

    reduce_range: bool = Field(
        default=True,
        description="Column scales that are exact on every processor. Without it processors with AVX2 but no VNNI may saturate.",
    )
    embeddings: bool = Field(
        default=True, description="Also quantize the embedding tables, which hold most of a small student's bytes."
    )
    tables: Literal["int8", "int4"] = Field(
        default="int8", description="int4 halves the bytes of large embedding tables again, for twice the rounding error."
    )
    min_elements: int = Field(default=8192, ge=1, description="Smaller matrices, such as the last layer's, stay in float.")

    def takes_product(self, elements: int) -> bool:
        """Whether a weight matrix of so many elements becomes INT8."""
        return elements >= self.min_elements

    def takes_table(self, elements: int) -> bool:
        """Whether an embedding table of so many elements becomes INT8."""
        return self.embeddings and elements >= self.min_elements

    def table_block(self, rows: int, width: int) -> int | None:
        """Values that share a scale in a table of 4-bit values; None where it has 8-bit ones.

        Small tables, such as that of positions, hold few bytes and stay in 8 bits. Blocks have about 32 values and divide
        the width; a width with no even divisor near 32 keeps 8 bits too.
        """
        if self.tables == "int8" or rows * width < _FOUR_BITS_FROM * self.min_elements:
            return None
        return min((b for b in range(16, 65, 2) if width % b == 0), key=lambda b: (abs(b - 32), b), default=None)
