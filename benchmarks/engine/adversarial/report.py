"""Tables of the runs that were drawn to fool the stop rules."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import torch

from benchmarks.engine.adversarial.families import FAMILIES
from benchmarks.engine.adversarial.mixtures import SCHEDULERS, MixtureVerdict, draw_batch, run_batch
from benchmarks.engine.adversarial.odes import CRITERIA, EquationVerdict, draw_case, run_case
from benchmarks.tools.pages import DOCS, put

PROMISES = {"CONVERGED", "EXACT"}
"""outcomes that say that the result is right"""
OFF, FAR_OFF = 3.0, 30.0
"""multiples of the tolerance from which a result counts as wrong, and as very wrong"""


def run_odes(cases: int, processes: int, first: int = 0) -> list[EquationVerdict]:
    """Return the verdicts of drawn ODEs."""
    return [verdict for verdicts in _map(_run_ode, range(first, first + cases), processes) for verdict in verdicts]


def run_mixtures(batches: int, processes: int, first: int = 0) -> list[MixtureVerdict]:
    """Return the verdicts of drawn mixtures, 64 samples each."""
    return list(_map(_run_mixture, range(first, first + batches), processes))


def _map(run: Callable[[int], Any], seeds: Iterable[int], processes: int) -> Iterable[Any]:
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(run, seeds, chunksize=2)


def _run_ode(seed: int) -> list[EquationVerdict]:
    return run_case(draw_case(seed))


def _run_mixture(seed: int) -> MixtureVerdict:
    torch.set_num_threads(1)
    return run_batch(draw_batch(seed))


def build_ode_table(verdicts: Sequence[EquationVerdict]) -> list[str]:
    """Return a table with a row per criterion, and one for all."""
    lines = [
        "| criterion | runs | CONVERGED | EXACT | other | off by > 3x | off by > 30x | iterations beyond the oracle |",
        "|" + "---|" * 8,
    ]
    rows = [_format_ode_row(name, [v for v in verdicts if v.criterion == name]) for name in CRITERIA]
    return [*lines, *rows, _format_ode_row("**all**", verdicts)]


def _format_ode_row(name: str, verdicts: Sequence[EquationVerdict]) -> str:
    outcomes = Counter(v.outcome for v in verdicts)
    other = len(verdicts) - outcomes["CONVERGED"] - outcomes["EXACT"]
    ratios = [v.ratio for v in verdicts if v.outcome in PROMISES]
    extra = np.mean([v.iterations - v.oracle for v in verdicts if v.outcome == "CONVERGED"])
    counts = f"{len(verdicts)} | {outcomes['CONVERGED']} | {outcomes['EXACT']} | {other}"
    return f"| {name} | {counts} | {_format_share(ratios, OFF)} | {_format_share(ratios, FAR_OFF)} | {extra:+.2f} |"


def _format_share(ratios: Sequence[float], factor: float) -> str:
    # `not ... <=` also counts NaN
    count = sum(not ratio <= factor for ratio in ratios)
    return f"{count} ({100 * count / max(1, len(ratios)):.2f} %)"


def build_family_table(verdicts: Sequence[EquationVerdict]) -> list[str]:
    """Return a table with a row per family, over all criteria."""
    lines = ["| family | runs | CONVERGED or EXACT | off by > 3x | off by > 30x |", "|" + "---|" * 5]
    for family in FAMILIES:
        members = [v for v in verdicts if v.family == family.__name__]
        ratios = [v.ratio for v in members if v.outcome in PROMISES]
        name = family.__name__.replace("_", " ")
        lines.append(
            f"| {name} | {len(members)} | {len(ratios)} | {_format_share(ratios, OFF)} | "
            f"{_format_share(ratios, FAR_OFF)} |"
        )
    return lines


def build_mixture_table(verdicts: Sequence[MixtureVerdict]) -> list[str]:
    """Return a table with a row per scheduler, and one for all."""
    lines = [
        "| scheduler | samples | off by > 3x | off by > 30x | iterations beyond the oracle |",
        "|" + "---|" * 5,
    ]
    groups = {name: [v for v in verdicts if v.batch.scheduler == name] for name in SCHEDULERS}
    for name, group in {**groups, "**all**": list(verdicts)}.items():
        ratios = [ratio for v in group if v.outcome in PROMISES for ratio in v.ratios]
        extra = [k - oracle for v in group for k, oracle in zip(v.iterations, v.oracles, strict=True)]
        lines.append(
            f"| {name} | {len(ratios)} | {_format_share(ratios, OFF)} | {_format_share(ratios, FAR_OFF)} | "
            f"{np.mean(extra or [0]):+.2f} |"
        )
    return lines


def report(cases: int, batches: int, first: int, processes: int, write: bool) -> None:
    """Run the drawn problems, print their tables, and write them into the page if asked to."""
    equations = run_odes(cases, processes, first)
    for v in equations:
        if v.outcome in PROMISES and not v.ratio <= OFF:
            print(f"off by {v.ratio:.3g}x under {v.criterion}, {v.outcome} in iteration {v.iterations}: {v.label}")
    mixtures = run_mixtures(batches, processes, first)
    for v in mixtures:
        for sample, ratio in enumerate(v.ratios):
            if v.outcome in PROMISES and not ratio <= OFF:
                print(f"sample {sample} off by {ratio:.3g}x in iteration {v.iterations[sample]}: {v.batch}")
    tables = {
        "adversarial-odes": build_ode_table(equations),
        "adversarial-families": build_family_table(equations),
        "adversarial-mixtures": build_mixture_table(mixtures),
    }
    for name, lines in tables.items():
        print("\n".join(lines), flush=True)
        if write:
            put(DOCS / "results/coverage.md", name, "\n".join(lines))
