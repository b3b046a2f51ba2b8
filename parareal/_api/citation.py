"""BibTeX entries of what a computation used."""

import re
from importlib.resources import files

from parareal._checks import one_of


def citation(*topics: str) -> str:
    """Return BibTeX entries, all of them by default: what was run is not known here, so name the topics that you used.

    Args:
        topics: any of
            `"parareal"` (the method), `"analysis"` and `"nonlinear"` (its convergence), `"waves"` (where it fails),
            `"pipelined"` (its schedule); `"diffusion"` (SRDS), `"picard"` (ParaDiGMS), `"parataa"`, `"chords"`,
            `"parasolver"` (other parallel samplers); `"ddim"`, `"ddpm"`, `"dpm"` (DPM-Solver), `"dpmpp"`
            (DPM-Solver++, the default coarse solver), `"plms"`, `"flow"` (rectified flow), `"torchdiffeq"`.

    Raises:
        ValueError: for an unknown topic.
    """
    entries = _entries()
    for topic in topics:
        one_of("topic", topic, entries)
    return "\n\n".join(entries[topic] for topic in topics or entries)


def _entries() -> dict[str, str]:
    text = files("parareal._api").joinpath("citations.bib").read_text(encoding="utf-8")
    return {topic: entry.strip() for topic, entry in re.findall(r"^% (\w+)\n(@.*?\n})$", text, re.M | re.S)}
