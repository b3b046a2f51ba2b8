"""The methods that are compared, by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

from parareal_diffusers._solvers.multistep.extrapolated import Extrapolated
from parareal_diffusers.bench.baselines.chords import STARTS, chords
from parareal_diffusers.bench.baselines.ours import solve
from parareal_diffusers.bench.baselines.paradigms import paradigms
from parareal_diffusers.bench.baselines.parataa import parataa
from parareal_diffusers.bench.cases.problems import Problem
from parareal_diffusers.bench.cases.record import Iterate, Stop, Target

# Our settings, by name and number of steps: keyword arguments of `sample`. Another number of steps takes those of the
# nearest. This table alone says what "ours" is.
EXTRAPOLATED = {"coarse": "extrapolated", "log_snr": 0.4, "speculate_until": 1}
CLEAN = {"coarse": Extrapolated(of="clean"), "log_snr": 0.4, "speculate_until": 1}
OURS: dict[str, dict[int, dict[str, Any]]] = {
    "automatic jumps, root of N slices": {
        25: {"slices": 5},
        100: {"slices": 10},
        196: {"slices": 14},
        961: {"slices": 31},
    },
    "automatic jumps, many slices": {
        25: {"slices": 10, "speculate_until": 1},
        100: {"slices": 22, "speculate_until": 1},
        196: {"slices": 31, "speculate_until": 1},
        961: {"slices": 62, "speculate_until": 1},
    },
    "own steps extrapolated": {
        25: {**EXTRAPOLATED, "slices": 13},
        100: {**EXTRAPOLATED, "levels": (13, 2), "log_snr": 0.3},
        196: {**EXTRAPOLATED, "levels": (17, 2, 2)},
        961: {**EXTRAPOLATED, "levels": (20, 4, 3)},
    },
    "own steps extrapolated, one level": {
        25: {**EXTRAPOLATED, "slices": 13, "speculate_until": 2},
        100: {**EXTRAPOLATED, "slices": 25},
        196: {**EXTRAPOLATED, "slices": 40},
        961: {**EXTRAPOLATED, "slices": 44},
    },
    "clean samples extrapolated": {
        25: {**CLEAN, "slices": 10},
        100: {**CLEAN, "levels": (10, 3)},
        196: {**CLEAN, "levels": (13, 4)},
        961: {**CLEAN, "levels": (24, 6)},
    },
    "few slices": {
        25: {"coarse": "same", "slices": 5, "speculate_until": 1},
        100: {"coarse": "same", "slices": 10, "speculate_until": 1},
        196: {"coarse": CLEAN["coarse"], "slices": 10, "speculate_until": 1},
        961: {"coarse": CLEAN["coarse"], "levels": (8, 8), "speculate_until": 1},
    },
    "own steps extrapolated, least span": {
        25: {"coarse": "extrapolated", "boundaries": (0, 3, 6, 9, 10, 13, 16, 19, 22, 24, 25), "speculate_until": 2},
        100: {**EXTRAPOLATED, "levels": (13, 3), "log_snr": 0.3},
        196: {**EXTRAPOLATED, "levels": (13, 2, 2, 2)},
        961: {**EXTRAPOLATED, "levels": (15, 4, 4)},
    },
    "own steps extrapolated, speculating": {
        25: {"coarse": "extrapolated", "slices": 13, "speculate_until": 2},
        100: {**EXTRAPOLATED, "slices": 20, "speculate_until": 2},
        196: {**EXTRAPOLATED, "slices": 28, "speculate_until": 2},
        961: {**EXTRAPOLATED, "levels": (31, 5), "speculate_until": 2},
    },
}
"""settings of `sample`; `log_snr` spaces the outermost slices by `boundaries`, those written out are learned
(benchmarks/diffusion/spacing.py)"""
WINDOWS = {25: 10, 100: 25, 196: 36, 961: 96}
"""the narrow windows of ParaDiGMS and ParaTAA, by number of steps; the wide ones hold all"""
RELATIVE = (1e-1, 1e-2, 1e-3)
"""the tolerances of the tables"""

Run = Callable[[Problem, int, Target, Stop], Sequence[Iterate]]


@final
@dataclass(frozen=True)
class BenchMethod:
    """A method with its settings."""

    name: str
    family: str
    run: Run
    """of one sample of a problem, a number of steps, the sequential final state and a rule to stop: the iterates"""
    settings: Callable[[int], dict[str, Any] | None]
    """for a number of steps; None where the method is not run with it"""
    rules: tuple[str, ...] = ("increment",)
    """the rules that it is run with"""
    traces: tuple[Stop, ...] = (Stop("oracle", 1e-3),)
    """the runs in which an oracle looks for the first iterate that is good enough"""
    wide: bool = False
    """whether a call takes all steps at once"""

    @property
    def rule(self) -> str:
        """The rule of its numbers "as run", where only one is shown: the estimate where the engine makes one."""
        return "estimate" if "estimate" in self.rules else "increment"

    def stops(self, tolerances: Sequence[float]) -> list[Stop]:
        """Return all ways in which it is run, without repetition."""
        return list(dict.fromkeys([*self.traces, *(Stop(rule, t) for rule in self.rules for t in tolerances)]))


def nearest(table: dict[int, Any], steps: int) -> Any:
    """Return what a table has for the number of steps closest to this one, by ratio."""
    return table[min(table, key=lambda n: max(n / steps, steps / n))]


def ours(name: str, table: dict[int, dict[str, Any]]) -> BenchMethod:
    """Return one of our settings as a method; levels only where the table has the very number of steps."""

    def settings(steps: int) -> dict[str, Any] | None:
        found = nearest(table, steps)
        if steps not in table and ("levels" in found or "boundaries" in found):
            return None
        if "slices" in found:
            found = {**found, "slices": min(found["slices"], steps)}
        return found

    def run(problem: Problem, steps: int, target: Target, stop: Stop) -> Sequence[Iterate]:
        return solve(problem, steps, target, stop, settings(steps) or {})

    return BenchMethod(f"ours: {name}", "ours", run, settings, ("increment", "estimate"))


def srds(name: str, **options: Any) -> BenchMethod:
    """Return SRDS: DDIM jumps over the root of N slices (arXiv 2412.08292, Algorithm 1)."""
    options = {"slices": "sqrt", "coarse": "same", **options}

    def run(problem: Problem, steps: int, target: Target, stop: Stop) -> Sequence[Iterate]:
        return solve(problem, steps, target, stop, options)

    return BenchMethod(name, "SRDS", run, lambda steps: options, ("increment", "estimate"))


def windowed(
    name: str, family: str, function: Callable[..., Sequence[Iterate]], wide: bool, **options: Any
) -> BenchMethod:
    """Return a method with a sliding window; with a `wide` one, an oracle needs no step to settle."""

    def settings(steps: int) -> dict[str, Any]:
        return {"window": steps if wide else min(steps, nearest(WINDOWS, steps)), **options}

    def run(problem: Problem, steps: int, target: Target, stop: Stop) -> Sequence[Iterate]:
        return function(problem.parts(steps), target, stop, **settings(steps))

    slides = tuple(Stop("increment", t) for t in RELATIVE)
    more = Stop("oracle", 1e-3) if wide else Stop("increment", 1e-4)
    return BenchMethod(name, family, run, settings, ("increment", "own"), (*slides, more), wide)


def hierarchy(cores: int) -> BenchMethod:
    """Return CHORDS with so many cores."""

    def run(problem: Problem, steps: int, target: Target, stop: Stop) -> Sequence[Iterate]:
        return chords(problem.parts(steps), target, stop, STARTS[cores])

    return BenchMethod(f"CHORDS, {cores} cores", "CHORDS", run, lambda steps: {"fractions": STARTS[cores]})


METHODS: dict[str, BenchMethod] = {
    method.name: method
    for method in (
        srds("SRDS, vanilla", schedule="synchronous"),
        srds("SRDS, pipelined"),
        windowed("ParaDiGMS, all steps", "ParaDiGMS", paradigms, wide=True),
        windowed("ParaDiGMS, window", "ParaDiGMS", paradigms, wide=False),
        windowed("ParaTAA, all steps", "ParaTAA", parataa, wide=True, order=1000, memory=2),
        windowed("ParaTAA, window", "ParaTAA", parataa, wide=False, order=1000, memory=2),
        hierarchy(4),
        hierarchy(8),
        *(ours(name, table) for name, table in OURS.items()),
    )
}
