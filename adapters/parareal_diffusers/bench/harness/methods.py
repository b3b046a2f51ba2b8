"""Methods of the comparison with their settings, by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

from parareal_diffusers._solvers.multistep.extrapolated import Extrapolated
from parareal_diffusers.bench.baselines.chords import START_FRACTIONS, chords
from parareal_diffusers.bench.baselines.ours import solve
from parareal_diffusers.bench.baselines.paradigms import paradigms
from parareal_diffusers.bench.baselines.parataa import parataa
from parareal_diffusers.bench.cases.problems import BenchProblem
from parareal_diffusers.bench.cases.record import Iterate, Stop, Target

# Names and settings are part of the keys of cached runs (`RunStore`, `wall_key`): a change discards those runs.
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
"""our settings, by name and number of steps: keyword arguments of `sample`. Other numbers of steps use the settings of
the nearest one (`find_nearest`). `log_snr` spaces the outermost slices by `boundaries`; `boundaries` that are listed
here come from a search (benchmarks/diffusion/spacing.py)"""
WINDOWS = {25: 10, 100: 25, 196: 36, 961: 96}
"""the narrow windows of ParaDiGMS and ParaTAA, by number of steps; the wide windows hold all steps"""
TOLERANCES = (1e-1, 1e-2, 1e-3)
"""the tolerances of the tables, relative errors"""

RunMethod = Callable[[BenchProblem, int, Target, Stop], Sequence[Iterate]]


@final
@dataclass(frozen=True)
class BenchMethod:
    """A method of the comparison with its settings."""

    name: str
    family: str
    """the published method whose variant this is, or `"ours"`"""
    run: RunMethod
    """runs one sample of a problem: takes the problem, the number of steps, the target and the stop rule, and returns
    the iterates"""
    settings: Callable[[int], dict[str, Any] | None]
    """returns the settings for a number of steps; None if the method is not run with that number"""
    rules: tuple[str, ...] = ("increment",)
    """the stop rules with which it is run"""
    oracle_stops: tuple[Stop, ...] = (Stop("oracle", 1e-3),)
    """the runs in which an oracle looks for the first iterate within the tolerance"""
    wide: bool = False
    """whether one call may hold all steps"""

    @property
    def rule(self) -> str:
        """The stop rule of the column "as run": `"estimate"` if the method has it, otherwise `"increment"`."""
        return "estimate" if "estimate" in self.rules else "increment"

    def stops(self, tolerances: Sequence[float]) -> list[Stop]:
        """Return all stop rules with which it is run, without repetition."""
        return list(dict.fromkeys([*self.oracle_stops, *(Stop(rule, t) for rule in self.rules for t in tolerances)]))


def find_nearest(table: dict[int, Any], steps: int) -> Any:
    """Return the entry for the number of steps nearest to this one, by ratio."""
    return table[min(table, key=lambda n: max(n / steps, steps / n))]


def build_ours(name: str, table: dict[int, dict[str, Any]]) -> BenchMethod:
    """Return one of our settings as a method."""

    def settings(steps: int) -> dict[str, Any] | None:
        options = find_nearest(table, steps)
        # Levels and boundaries fit the number of steps for which they were chosen, and no other.
        if steps not in table and ("levels" in options or "boundaries" in options):
            return None
        if "slices" in options:
            options = {**options, "slices": min(options["slices"], steps)}
        return options

    def run(problem: BenchProblem, steps: int, target: Target, stop: Stop) -> Sequence[Iterate]:
        return solve(problem, steps, target, stop, settings(steps) or {})

    return BenchMethod(f"ours: {name}", "ours", run, settings, ("increment", "estimate"))


def build_srds(name: str, **options: Any) -> BenchMethod:
    """Return SRDS: DDIM jumps over the root of N slices (arXiv 2412.08292, Algorithm 1)."""
    options = {"slices": "sqrt", "coarse": "same", **options}

    def run(problem: BenchProblem, steps: int, target: Target, stop: Stop) -> Sequence[Iterate]:
        return solve(problem, steps, target, stop, options)

    return BenchMethod(name, "SRDS", run, lambda steps: options, ("increment", "estimate"))


def build_windowed(
    name: str, family: str, function: Callable[..., Sequence[Iterate]], wide: bool, **options: Any
) -> BenchMethod:
    """Return a method with a sliding window, of all steps if `wide`."""

    def settings(steps: int) -> dict[str, Any]:
        return {"window": steps if wide else min(steps, find_nearest(WINDOWS, steps)), **options}

    def run(problem: BenchProblem, steps: int, target: Target, stop: Stop) -> Sequence[Iterate]:
        return function(problem.build_parts(steps), target, stop, **settings(steps))

    # The tolerance by which the window advances changes the iterates, so the oracle chooses among several runs. With
    # the oracle's own rule a window advances by one state per iteration, which suits a window over all steps; a narrow
    # one gets a tighter increment instead.
    advancing = tuple(Stop("increment", t) for t in TOLERANCES)
    tightest = Stop("oracle", 1e-3) if wide else Stop("increment", 1e-4)
    return BenchMethod(name, family, run, settings, ("increment", "own"), (*advancing, tightest), wide)


def build_chords(cores: int) -> BenchMethod:
    """Return CHORDS with a number of cores."""

    def run(problem: BenchProblem, steps: int, target: Target, stop: Stop) -> Sequence[Iterate]:
        return chords(problem.build_parts(steps), target, stop, START_FRACTIONS[cores])

    return BenchMethod(f"CHORDS, {cores} cores", "CHORDS", run, lambda steps: {"fractions": START_FRACTIONS[cores]})


METHODS: dict[str, BenchMethod] = {
    method.name: method
    for method in (
        build_srds("SRDS, vanilla", schedule="synchronous"),
        build_srds("SRDS, pipelined"),
        build_windowed("ParaDiGMS, all steps", "ParaDiGMS", paradigms, wide=True),
        build_windowed("ParaDiGMS, window", "ParaDiGMS", paradigms, wide=False),
        # Order 1000 is at least the number of steps, so every equation starts at the window's head.
        build_windowed("ParaTAA, all steps", "ParaTAA", parataa, wide=True, order=1000, memory=2),
        build_windowed("ParaTAA, window", "ParaTAA", parataa, wide=False, order=1000, memory=2),
        build_chords(4),
        build_chords(8),
        *(build_ours(name, table) for name, table in OURS.items()),
    )
}
