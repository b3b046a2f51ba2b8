"""`citation`: BibTeX entries of the methods that this package implements."""

import re
from importlib.resources import files

from parareal._checks import one_of


def citation(*topics: str) -> str:
    """Return BibTeX entries of the works behind this package, to be cited with results.

    Args:
        *topics: the topics to cite; all of them if none is named, since the package does not record what was run.
            `"parareal"` (the method), `"analysis"` and `"nonlinear"` (its convergence), `"waves"` (its failure for
            hyperbolic problems), `"pipelined"` (its schedule); `"diffusion"` (SRDS), `"picard"` (ParaDiGMS),
            `"parataa"`, `"chords"`, `"parasolver"` (other parallel samplers); `"ddim"`, `"ddpm"`, `"dpm"` (DPM-Solver),
            `"dpmpp"` (DPM-Solver++, the default coarse solver), `"plms"`, `"flow"` (rectified flow), `"torchdiffeq"`.

    Returns:
        The entries, separated by blank lines.

    Raises:
        ValueError: for an unknown topic.

    Examples:
        `print(parareal.citation("parareal", "diffusion"))`
    """
    entries = _entries()
    for topic in topics:
        one_of("topic", topic, entries)
    return "\n\n".join(entries[topic] for topic in topics or entries)


def _entries() -> dict[str, str]:
    """Return the entries of `citations.bib` by topic; a comment line above each entry names the topic."""
    text = files("parareal._api").joinpath("citations.bib").read_text(encoding="utf-8")
    return {topic: entry.strip() for topic, entry in re.findall(r"^% (\w+)\n(@.*?\n})$", text, re.M | re.S)}
