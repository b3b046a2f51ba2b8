"""Numbers of the paper on SRDS (Selvam, Merchant, Ermon; NeurIPS 2024; arXiv 2412.08292), with their sources.

Only some cells of its tables could be read for this project. Each number has a label: [V] read in the source itself,
[A] from the abstract or an index page only, [D] derived by arithmetic from the others.
"""

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class PaperValue:
    """A number of the paper, with the label of its source."""

    value: str
    label: str

    def __str__(self) -> str:
        return f"{self.value} [{self.label}]"


PIXEL_FID = {
    "LSUN Church, 128 x 128": PaperValue("12.8", "A"),
    "LSUN Bedroom, 128 x 128": PaperValue("10.0", "A"),
    "ImageNet, 64 x 64": PaperValue("9.0", "A"),
    "CIFAR-10, 32 x 32": PaperValue("7.6", "A"),
}
"""Table 1: FID of SRDS with N = 1024, which the paper states to equal that of sequential DDIM"""
CLIP = PaperValue("31.9", "A")
"""Table 2: Stable Diffusion 2, ViT-g-14, 1000 captions of COCO-2017, guidance 7.5"""
SPEED_UP = {
    25: PaperValue("up to 1.7", "V"),
    100: PaperValue("up to 2.3", "V"),
    961: PaperValue("up to 4.3", "V"),
}
"""Table 3 and the abstracts: speed-ups in wall time with Stable Diffusion 2 on four A100, by number of steps"""
BEST_TIME = {25: PaperValue("0.69 s", "A")}
"""Table 3: the best time per sample; that it belongs to 25 steps is inferred from the speed-up of 1.7"""
PARADIGMS = PaperValue("SRDS faster at 961, 196 and 25 steps, for every threshold", "V")
"""Table 4"""
PARATAA = {100: PaperValue("2.73", "A")}
"""the appendix: the best speed-up over ParaTAA; that it belongs to 100 steps is inferred"""
LEGEND = (
    "Numbers of the paper: [V] read in the source, [A] abstract or index page only, [D] derived by arithmetic, "
    "- not available."
)


def count_evaluations(steps: int, iterations: int) -> dict[str, PaperValue]:
    """Return the serial and the total evaluations of Algorithm 1, by method.

    They are derived for p iterations over M slices of S steps each, M = S = sqrt(N). Algorithm 1 shares no evaluations
    between the fine and the coarse solver and repeats slices that are exact already, so the counts differ from ours.
    """
    m = round(steps**0.5)
    s, p = steps / m, iterations
    return {
        "SRDS, vanilla": PaperValue(f"{m + p * (s + m):.0f}, {m + p * (steps + m):.0f}", "D"),
        "SRDS, pipelined": PaperValue(f"{p * s + m - p:.0f}, {m + p * (steps + m):.0f}", "D"),
    }
