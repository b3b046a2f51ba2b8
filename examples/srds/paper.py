"""What is known of the numbers in the paper on SRDS (Selvam, Merchant, Ermon; NeurIPS 2024; arXiv 2412.08292).

Not all cells of its tables could be read for this project. Each one here has a label: [V] read in the source itself,
[A] from its abstract or an index page only, [D] by arithmetic from the others.
"""

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class Cell:
    """A number of the paper, and how certain it is."""

    value: str
    label: str

    def __str__(self) -> str:
        return f"{self.value} [{self.label}]"


PIXEL_FID = {
    "LSUN Church, 128 x 128": Cell("12.8", "A"),
    "LSUN Bedroom, 128 x 128": Cell("10.0", "A"),
    "ImageNet, 64 x 64": Cell("9.0", "A"),
    "CIFAR-10, 32 x 32": Cell("7.6", "A"),
}
"""Table 1: FID of SRDS with N = 1024, said to equal sequential DDIM's"""
CLIP = Cell("31.9", "A")
"""Table 2: Stable Diffusion 2, ViT-g-14, 1000 captions of COCO-2017, guidance 7.5"""
SPEED_UP = {25: Cell("up to 1.7", "V"), 100: Cell("up to 2.3", "V"), 961: Cell("up to 4.3", "V")}
"""Table 3 and the abstracts: speed-ups of wall-clock with Stable Diffusion 2 on 4 A100"""
BEST_TIME = {25: Cell("0.69 s", "A")}
"""Table 3: the best time of a sample; that it is the one with 25 steps is an inference from 1.7"""
PARADIGMS = Cell("SRDS faster at 961, 196 and 25 steps, for every threshold", "V")
"""Table 4"""
PARATAA = {100: Cell("2.73", "A")}
"""the appendix: the best speed-up against ParaTAA; that it is the one with 100 steps is an inference"""
LEGEND = "The paper's: [V] read in the source, [A] abstract or index page only, [D] by arithmetic; - not recovered."


def laws(steps: int, iterations: int) -> dict[str, Cell]:
    """Return the evaluations that Algorithm 1 makes in p iterations over M = S = root of N slices, by arithmetic."""
    m = round(steps**0.5)
    s, p = steps / m, iterations
    return {
        "SRDS, vanilla": Cell(f"{m + p * (s + m):.0f}, {m + p * (steps + m):.0f}", "D"),
        "SRDS, pipelined": Cell(f"{p * s + m - p:.0f}, {m + p * (steps + m):.0f}", "D"),
    }
