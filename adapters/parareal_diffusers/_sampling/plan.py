"""Which setting to sample with on this machine, and whether in parallel at all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any, final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from tqdm.auto import tqdm

import parareal
from parareal import BatchTime
from parareal.driver import SCHEDULES, check_initial, one_of, whole_number
from parareal_diffusers._grid.grid import Grid
from parareal_diffusers._noise import Generators
from parareal_diffusers._sampling.denoiser import Denoiser
from parareal_diffusers._sampling.spacing import spaced
from parareal_diffusers._solvers.multistep.extrapolated import Extrapolated
from parareal_diffusers._solvers.solver import Solver

Key = tuple[Any, ...]

LOG_SNR = 0.4
"""how slices are spaced where nobody says how, as of `boundaries`: with it errors were least (docs/solvers.md)"""

_times: "WeakKeyDictionary[Any, dict[Key, BatchTime]]" = WeakKeyDictionary()
_learned: "WeakKeyDictionary[Any, dict[Key, dict[int, list[int]]]]" = WeakKeyDictionary()
_plans: "WeakKeyDictionary[Any, dict[Key, parareal.Plan]]" = WeakKeyDictionary()


def batch_time(denoiser: Denoiser, latents: Tensor, seconds: float = 1.0) -> BatchTime:
    """Return what calls of a network take on this device, measured once for a model, shape, dtype, device and threads.

    Args:
        denoiser: calls the network.
        latents: of the shape (samples, *sample), dtype and device that it will be given.
        seconds: to measure for, at most, but for calls that take longer each.
    """
    cached = _of(_times, denoiser.model)
    guided = denoiser.guidance is not None
    key = (tuple(latents.shape[1:]), latents.dtype, latents.device, torch.get_num_threads(), denoiser.dtype, guided)
    if key not in cached:

        def call(rows: int) -> None:
            index = torch.arange(rows, device=latents.device)
            with torch.no_grad():
                denoiser(latents[index % len(latents)], 0 * index, index % len(latents))
            if latents.device.type == "cuda":
                torch.cuda.synchronize(latents.device)

        cached[key] = BatchTime.measured(call, seconds=seconds)
    return cached[key]


def _of(cache: "WeakKeyDictionary[Any, Any]", model: Any) -> dict[Any, Any]:
    try:
        return cache.setdefault(model, {})
    except TypeError:  # no weak reference to it, nothing is kept
        return {}


@final
@dataclass(frozen=True)
class Ready:
    """What is to be sampled, checked: the solvers, the nodes, the network, and when to stop."""

    fine: Solver
    coarse: Solver
    grid: Grid
    denoiser: Denoiser
    criterion: parareal.AbstractCriterion

    def advice(self, latents: Tensor, **options: Any) -> parareal.Plan | None:
        """Return the plan for a call of `sample` with these options; None where none is made.

        That is without a tolerance, with batches of fixed sizes, and where options or network are wrong, of which the
        solve has more to say.
        """
        if not isinstance(self.criterion, parareal.Tolerance) or self.denoiser.sizes:
            return None
        try:
            self.criterion.resolved(check_initial(latents[:1], 1)[1])
            for name in ("window", "max_iterations", "max_batch", "speculate_until"):
                if options[name] is not None:
                    whole_number(name, options[name], 0 if name in ("max_iterations", "speculate_until") else 1)
            return self.plan(latents, options["window"], options["schedule"], options["max_batch"])
        except (TypeError, ValueError, RuntimeError):
            return None

    def plan(
        self, latents: Tensor, window: int | None = None, schedule: str = "pipelined", max_batch: int | None = None
    ) -> parareal.Plan:
        """Choose for latents of shape (samples, *sample), from what is known."""
        assert isinstance(self.criterion, parareal.Tolerance)
        one_of("schedule", schedule, SCHEDULES)
        curve, known = batch_time(self.denoiser, latents), _of(_learned, self.denoiser.model).get(self.key, {})
        made = _of(_plans, self.denoiser.model)
        key = (self.key, len(latents), window, schedule, max_batch, curve, str(known))
        if key not in made:
            made[key] = parareal.plan(
                self.grid.steps,
                iterations=_expected(known, self.criterion.rtol),
                batch_time=curve,
                slices=sorted(known) or None,
                schedules=[schedule],
                windows=[window],
                max_batches=[max_batch],
                samples=len(latents),
            )
        return made[key]

    def cut(self, count: int) -> dict[str, Any]:
        """Return the arguments of `sample` for so many slices, where they may begin anywhere.

        Extrapolated jumps gain by shorter slices where the noise ends, others do not (docs/solvers.md).
        """
        cycles = list(self.fine.bases(self.grid)) != list(range(self.grid.steps))
        if cycles or not isinstance(self.coarse, Extrapolated) or count == 1:
            return {"slices": count}
        return {"boundaries": spaced(self.grid, count, LOG_SNR)}

    def learn(self, solution: parareal.Solution) -> None:
        """Remember the iterations that samples made: one more where the estimate was near the tolerance.

        Of some samples like that the next will need it.
        """
        assert isinstance(self.criterion, parareal.Tolerance)
        near = solution.error_estimate > 0.85 * self.criterion.rtol
        known = _of(_learned, self.denoiser.model).setdefault(self.key, {})
        known[len(solution.boundaries) - 1] = sorted(int(n) for n in solution.slice_iterations[-1] + near)

    @property
    def key(self) -> Key:
        """What iterations depend on, beside the network and the number of slices."""
        rtol = self.criterion.rtol if isinstance(self.criterion, parareal.Tolerance) else None
        solvers = [(type(x).__name__, str(replace(x, scheduler=None))) for x in (self.fine, self.coarse)]
        guidance = self.denoiser.guidance
        return (*solvers, type(self.fine.scheduler).__name__, self.grid.steps, rtol, guidance and guidance.scale)


def _expected(known: dict[int, list[int]], tolerance: float) -> Callable[[int], list[int]]:
    """Return the iterations to expect, by the number of slices: those that were made, or a guess from the tolerance."""
    if known:
        return lambda slices: known[min(known, key=lambda count: abs(count - slices))]
    guess = next((n for bound, n in ((3e-2, 1), (3e-3, 2), (3e-4, 3)) if tolerance >= bound), 4)
    return lambda slices: [guess]


def plan(
    model: Callable[..., Any],
    latents: Tensor,
    solver: Any,
    *,
    num_inference_steps: int | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    tolerance: float = 1e-2,
    slices: Sequence[int] | None = None,
    generator: Generators = None,
    progress: bool = False,
    **options: Any,
) -> parareal.Plan:
    """Learn what `sample` takes here, and choose: by runs with some numbers of slices, timed calls, and simulation.

    What is learned is kept for the process; `sample(..., slices="auto")` with the same model, solver, steps, coarse
    solver and tolerance uses it. Costs a few times the sequential solves of the latents.

    Args:
        model, latents, solver, num_inference_steps, model_kwargs, tolerance: as for `sample`; a few samples, that are
            like those to come.
        slices: numbers to try; by default some around the one of least span.
        generator: as for `sample`; it is not advanced.
        progress: show a bar.
        options: more arguments of `sample`.

    Returns:
        A `parareal.Plan`, for one sample at a time: `.explain()` says what to do and why.

    Raises:
        ValueError, TypeError: as `sample`.
    """
    from parareal_diffusers._sampling.sample import prepare, sample  # which plans by this module

    for name in ("criterion", "boundaries", "levels", "speculate_until"):
        if name in options:
            raise TypeError(f"plan has no option {name!r}: it chooses that, or needs a tolerance")
    if not tolerance > 0:
        raise ValueError(f"plan needs a positive tolerance, got {tolerance}: a run to the end never pays on one device")
    given: dict[str, Any] = {
        "num_inference_steps": num_inference_steps,
        "model_kwargs": model_kwargs,
        "tolerance": tolerance,
        **options,
    }
    says_what = signature(prepare).parameters  # is to be sampled, not how
    ready = prepare(model, latents, solver, **{name: x for name, x in given.items() if name in says_what})
    steps = ready.grid.steps
    counts = slices or sorted({n for f in (0.7, 1.0, 1.5, 2.4) if 1 < (n := round(f * steps**0.5)) <= steps} or {1})
    for count in tqdm(counts, desc="plan", unit="solve", disable=not progress):
        found = sample(
            model, latents, solver, **ready.cut(count), generator=_copy(generator), speculate_until=1, **given
        )
        ready.learn(found)
    return ready.plan(latents[:1])


def _copy(generator: Generators) -> Generators:
    """Return generators that stand where these do."""
    if generator is None:
        return None
    if isinstance(generator, torch.Generator):
        copied = torch.Generator(generator.device)
        copied.set_state(generator.get_state())
        return copied
    return [g for given in generator if isinstance(g := _copy(given), torch.Generator)]
