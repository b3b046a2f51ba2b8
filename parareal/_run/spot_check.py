"""The spot check: after the stop, F runs once more on accepted states, and its results are compared with the next.

The criterion accepts a boundary before F has run on its last state. The spot check runs F there, on some slices. Its
requests are like those of a machine, so that the same runner serves them.
"""

import math
from collections.abc import Iterable, Sequence
from typing import final

import numpy as np

from parareal._iteration.machine import Machine
from parareal._iteration.messages import Delivery, Request, Scope, Value
from parareal._iteration.rules import Rules
from parareal._problem.levels import unroll
from parareal._problem.problem import Problem
from parareal._results.solution import Outcome
from parareal._results.spot_check import SpotCheck
from parareal._run.checked_slice import CheckedSlice, judge_slice, list_pieces

_SEED = 20


@final
class SpotChecker:
    """The spot check of one solve, driven like a machine: `begin` and `receive` return requests.

    `share` is the share of the slices that are drawn per sample.
    """

    def __init__(self, problem: Problem, rules: Rules, share: float):
        self.problem, self.rules, self.share = problem, rules, share
        shape = rules.slices, len(problem.samples)
        self.defects, self.relative_defects, self.limits = (np.full(shape, np.nan) for _ in range(3))
        self.depth = 0.0
        """evaluations on the critical path to the end of the check"""
        self.started = False
        self._scope = Scope()
        self._checks: dict[tuple[int, int], CheckedSlice] = {}  # unfinished ones, by sample and slice

    @property
    def done(self) -> bool:
        """Whether all slices that were drawn have been checked."""
        return not self._checks

    def begin(self, machines: Sequence[Machine], samples: Iterable[int]) -> list[Request]:
        """Draw slices of the given samples, and return the first requests."""
        self.started = True
        # the check begins when the last sample has stopped
        depth = max((m.outlet.depth for m in machines if m.outlet is not None), default=0.0)
        _, edges, indices = unroll(self.problem.fine, self.rules.boundaries)
        measure = self.rules.measure
        for sample in samples:
            outputs = [value for value in machines[sample].outputs if value is not None]
            values = [Value(0, self.problem.samples[sample], exact=True), *outputs]
            final_size, growth = measure.fill_sizes(values[-1]).size, machines[sample].measure_growth()
            for n in self._draw(sample, outputs):
                start, end = (measure.fill_sizes(value) for value in values[n : n + 2])
                start, nodes = start._replace(depth=depth), edges[indices[n] : indices[n + 1] + 1]
                pieces = list_pieces(self.problem, sample, n, start, nodes, self._scope)
                self._checks[sample, n] = CheckedSlice(n, start, end, final_size, growth[n], len(pieces), pieces)
        return [check.pieces.pop(0) for check in self._checks.values()]

    def receive(self, delivery: Delivery) -> list[Request]:
        """Accept a result; return the request that continues it, if its slice has not been crossed yet."""
        request, result, _ = delivery
        if request.scope is not self._scope:  # of a machine that has stopped
            return []
        key = request.sample, request.outermost.slice
        check, depth = self._checks[key], request.value.depth + result.cost
        if check.pieces:
            value = request.value._replace(state=result.state, memory=result.memory, depth=depth)
            return [check.pieces.pop(0)._replace(value=value)]
        del self._checks[key]
        self.depth = max(self.depth, depth)
        defect = judge_slice(self.rules, check, result.state)
        sample, slice = key
        self.defects[slice, sample], self.relative_defects[slice, sample], self.limits[slice, sample] = defect
        return []

    def revise(self, outcomes: list[Outcome], error: Exception | None) -> list[Outcome]:
        """Return the outcomes of the samples in the light of the check; `error` is a propagator's exception or None."""
        outcomes = list(outcomes)
        for sample, _ in self._checks:  # a promise to check that was not kept
            outcomes[sample] = Outcome.CANCELLED if error is None else Outcome.WORKER_LOST
        for sample in np.flatnonzero(self._contradictions().any(axis=0)).tolist():
            if outcomes[sample] is Outcome.CONVERGED:
                outcomes[sample] = Outcome.CONTRADICTED
        return outcomes

    def result(self, outcomes: list[Outcome]) -> SpotCheck | None:
        """Return what was measured, for outcomes that `revise` returned; None if the check was not begun."""
        if not self.started:
            return None
        contradicted = np.array([outcome is Outcome.CONTRADICTED for outcome in outcomes])
        cause = self._describe_worst(contradicted)
        return SpotCheck(self.defects.copy(), self.relative_defects.copy(), contradicted, cause)

    def _draw(self, sample: int, outputs: list[Value]) -> list[int]:
        """Return the slices of a sample to check."""
        # the subtrahend undoes rounding: a share of 0.1 of 30 slices is 3, not 3.0000000000000004
        count = max(1, math.ceil(self.share * self.rules.slices - 1e-9))
        # a generator of its own, so that the draw is the same in every run and global generators are not touched
        order = np.random.default_rng((_SEED, sample)).permutation(len(outputs)).tolist()
        # an exact output is the result of F already, so it needs no check
        candidates = [n for n in order if not outputs[n].exact]
        if self.rules.criterion.local and not self.rules.criterion.cumulative:
            # Slices with an accepted result come first, because F has not run on their last state. By a cumulative
            # criterion the last boundary may settle alone, and it would be drawn every time.
            candidates.sort(key=lambda n: not outputs[n].settled)
        return sorted(candidates[:count])

    def _contradictions(self) -> np.ndarray:
        """Return which slices were checked and have a defect above the limit, shape (slices, samples)."""
        return self.defects > self.limits  # False where NaN

    def _describe_worst(self, contradicted: np.ndarray) -> str:
        """Return the worst contradiction and its remedy in words; empty if there is none."""
        if not contradicted.any():
            return ""
        relative = np.where(self._contradictions() & contradicted, self.relative_defects, -1.0)
        at = np.unravel_index(int(np.argmax(relative)), relative.shape)
        return (
            f"slice {at[0]} of sample {at[1]} has a defect of {self.defects[at]:.2g}, {relative[at]:.2g} of the size "
            f"of its state, where at most {self.limits[at]:.2g} is expected: lower rtol, use another criterion, or run "
            f"to the end with Iterations({self.rules.slices})"
        )
