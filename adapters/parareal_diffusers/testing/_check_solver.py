"""Is a solver right? Six experiments that tell its author."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

import parareal
from parareal_diffusers._grid.grid import prediction_type_of
from parareal_diffusers._grid.sigmas import Sigmas
from parareal_diffusers._sampling.denoiser import denoised
from parareal_diffusers._sampling.sample import sample
from parareal_diffusers._schedulers.native import copy_with_timesteps, solver_of
from parareal_diffusers._solvers.ancestral.ddim import DDIM
from parareal_diffusers._solvers.solver import Solver
from parareal_diffusers.testing._errors import relative_error
from parareal_diffusers.testing._loop import scheduler_loop
from parareal_diffusers.testing._mixture import GaussianMixture

Model = Callable[[Tensor, Tensor], Tensor]
Reference = Callable[[Model, Tensor, Any, Any], Tensor]


def check_solver(
    solver: Any,
    *,
    reference: Reference | None = None,
    model: Model | None = None,
    steps: Sequence[int] = (1, 2, 7, 25),
    shape: tuple[int, ...] = (1, 4, 4),
    dtype: torch.dtype = torch.float32,
    bound: float | None = None,
) -> parareal.Report:
    """Test whether a solver is right; it takes about a second.

    Six experiments on small samples: `sequential` (one slice gives what the reference gives), `finish` (run to the end
    unbatched, whatever the slices and levels, it gives that bit by bit), `rows` (a sample's result does not depend on
    the samples and rows beside it), `jumps` (as a coarse solver it arrives at the right level), `memory` (what is
    remembered crosses slice boundaries so that iterations converge) and `noise` (the same generator gives the same
    sample, whatever the slices, and is left where the reference leaves it).

    Args:
        solver: a solver with a scheduler, as in `DDIM(scheduler)`, or with `Sigmas`, or a diffusers scheduler.
        reference: the sequential loop, called as `reference(model, latents, steps, generator)`, where the result
            is to be compared with something else than the loop over the unmodified scheduler. For a solver on `Sigmas`
            it is needed, and called as `reference(model, latents, sigmas, generator)`, sigmas a tensor of N + 1 levels,
            as k-diffusion's samplers are.
        model: called as `model(x, t)`, or as `model(x, sigma)` for one on `Sigmas`, the clean sample; by default a
            Gaussian mixture's exact score (`GaussianMixture`).
        steps: numbers of steps to compare with the reference; for `Sigmas` so many levels over the same range.
        shape: of a sample.
        dtype: of the states, float32 or float64.
        bound: largest relative error; by default 1e-5, and 1e-10 for float64.

    Returns:
        A `parareal.Report`: `.ok`, and, printed, a line for each experiment.

    Raises:
        TypeError, ValueError: if there is nothing to compare the solver with, no model for it, or no native solver.
    """
    fine = solver if isinstance(solver, Solver) else solver_of(copy_with_timesteps(solver, max(steps)))
    if fine.scheduler is None:
        raise ValueError(f"{type(fine).__name__} needs the nodes to step over: {type(fine).__name__}(scheduler)")
    if reference is None:
        reference = _scheduler_reference(fine, max(steps))
    model = _mixture_model(fine, shape) if model is None else model
    bound = (1e-10 if dtype is torch.float64 else 1e-5) if bound is None else bound
    case = _Case(solver, reference, model, tuple(steps), shape, dtype, bound, fine.stochastic)
    experiments = (case.sequential, case.finish, case.rows, case.jumps, case.memory, case.noise)
    return parareal.Report(tuple(_finding(experiment) for experiment in experiments))


def _scheduler(solver: Any) -> Any:
    """Return the scheduler whose nodes a solver steps over."""
    return solver.scheduler if isinstance(solver, Solver) else solver


def _finding(experiment: Callable[[], str]) -> parareal.Finding:
    try:
        complaint = experiment()
    except Exception as error:  # whatever the author's code raises is what the report is about
        complaint = f"{type(error).__name__}: {error}"
    return parareal.Finding(experiment.__name__, not complaint, complaint or "passed")


def _mixture_model(solver: Solver, shape: tuple[int, ...]) -> Model:
    """Return a perfect network of the kind that the solver's scheduler wants."""
    if solver.wants_variance:
        raise ValueError("check_solver has no model that predicts variances: give one as model=")
    if isinstance(solver.scheduler, Sigmas):
        return GaussianMixture.random(components=6, shape=shape).denoise
    kind = prediction_type_of(solver.scheduler, "flow_prediction")
    return GaussianMixture.random(components=6, shape=shape).model(solver.scheduler, kind)


def _scheduler_reference(solver: Solver, steps: int) -> Reference:
    """Return the loop over the scheduler that this solver is the native form of."""
    if isinstance(solver.scheduler, Sigmas):
        raise ValueError(
            f"check_solver does not know what {type(solver).__name__} on Sigmas must be equal to: give a sequential "
            "loop as reference=, called as reference(model, latents, sigmas, generator)"
        )
    native = solver_of(copy_with_timesteps(solver.scheduler, steps))
    options: dict[str, Any] = {}
    if isinstance(native, DDIM) and isinstance(solver, DDIM):
        options = {"eta": solver.eta, "use_clipped_model_output": solver.use_clipped_model_output}
        native = replace(native, **options)
    if replace(native, scheduler=None) != replace(solver, scheduler=None):
        raise ValueError(
            f"check_solver does not know what {type(solver).__name__} must be equal to: it is not what a "
            f"{type(solver.scheduler).__name__} does with its options. Give a sequential loop as reference=, called as "
            "reference(model, latents, steps, generator)"
        )

    def loop(model: Model, latents: Tensor, steps: int, generator: Any) -> Tensor:
        return scheduler_loop(model, latents, solver.scheduler, steps, generator, **options)

    return loop


@final
@dataclass(frozen=True)
class _Case:
    """What is to be tested, and the experiments; each returns a complaint, or nothing."""

    solver: Any
    reference: Reference
    model: Model
    steps: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    bound: float
    stochastic: bool

    def latents(self, samples: int = 2) -> Tensor:
        """Return noise to start from."""
        noise = torch.randn(samples, *self.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return (noise * float(getattr(_scheduler(self.solver), "init_noise_sigma", 1.0))).to(self.dtype)

    def run(self, steps: int, latents: Tensor | None = None, generator: Any = None, **options: Any) -> Tensor:
        """Return the sample; the generator is new unless one is given."""
        latents = self.latents() if latents is None else latents
        generator = _seeded(1) if generator is None else generator
        options = {"tolerance": 0.0, "generator": generator} | options
        if self.sigmas is None:
            return sample(self.model, latents, self.solver, num_inference_steps=steps, **options).final_state
        solver = replace(self.solver, scheduler=self.sigmas.like(steps))
        return sample(denoised(self.model), latents, solver, **options).final_state

    def expected(self, steps: int, generator: Any) -> Tensor:
        """Return what the reference gives."""
        over: Any = steps if self.sigmas is None else self.sigmas.like(steps).values
        return self.reference(self.model, self.latents(), over, generator)

    @property
    def sigmas(self) -> Sigmas | None:
        """The levels of a solver on a bare denoiser, None for one on a scheduler's nodes."""
        scheduler = _scheduler(self.solver)
        return scheduler if isinstance(scheduler, Sigmas) else None

    def sequential(self) -> str:
        """Compare one slice with the reference."""
        for steps in self.steps:
            expected = self.expected(steps, _seeded(1))
            error = relative_error(self.run(steps, slices=1), expected)
            if not error <= self.bound:
                return f"with {steps} steps the result is off by {error:.1e} from the reference"
        return ""

    def finish(self) -> str:
        """Compare runs to the end, row by row, with one slice, bit by bit."""
        steps = max(self.steps)
        expected = self.run(steps, slices=1, max_batch=1)
        ways: list[dict[str, Any]] = [{"slices": min(4, steps)}, {"slices": steps}, {"levels": (2, 2)}]
        for options in ways if steps >= 4 else ways[:2]:
            if not torch.equal(self.run(steps, max_batch=1, **options), expected):
                return f"run to the end with {options} and max_batch=1, the result is not bit by bit that of one slice"
        return ""

    def rows(self) -> str:
        """Compare a batch with its samples alone."""
        steps, latents = max(self.steps), self.latents(3)
        together = self.run(steps, latents, [_seeded(i) for i in range(3)], slices=min(4, steps))
        for i in range(3):
            alone = self.run(steps, latents[i : i + 1], _seeded(i), slices=min(4, steps))
            if not relative_error(alone, together[i : i + 1]) <= self.bound:
                return f"sample {i} comes out differently beside others than alone: let rows not influence each other"
        return ""

    def jumps(self) -> str:
        """See that jumps over a few nodes make a sketch, on a single Gaussian, where nothing can go astray."""
        scheduler = _scheduler(self.solver)
        mixture = GaussianMixture(torch.full((1, *self.shape), 0.3), deviation=0.2)  # clipping leaves it alone
        bare = self.sigmas is not None
        model = mixture.denoise if bare else mixture.model(scheduler, prediction_type_of(scheduler, "flow_prediction"))
        one = replace(self, model=model)
        sketch = one.run(48, criterion=parareal.Iterations(0), slices=24, coarse="same")
        error = relative_error(sketch, one.run(48, slices=1))
        return (
            ""
            if error < 0.3
            else f"jumps over two nodes are off by {error:.1e}: step from level interval.s to level interval.t"
        )

    def memory(self) -> str:
        """See that iterations converge, which history that is lost or carried uncorrected prevents."""
        steps, errors = max(24, *self.steps), []
        expected = self.run(steps, slices=1)
        for count in (0, 3):
            one = self.run(steps, slices=8, criterion=parareal.Iterations(count))
            errors.append(relative_error(one, expected))
        if not errors[1] <= max(0.1 * errors[0], self.bound):
            return (
                f"three iterations bring the error only from {errors[0]:.1e} to {errors[1]:.1e}: a multistep method "
                "must correct its memory at slice boundaries (correct)"
            )
        return ""

    def noise(self) -> str:
        """See that the noise is the reference's, a function of the step alone."""
        steps, generators = max(self.steps), [_seeded(1) for _ in range(3)]
        self.expected(steps, generators[0])
        few = self.run(steps, generator=generators[1], slices=min(2, steps))
        many = self.run(steps, generator=generators[2], slices=min(5, steps))
        if not relative_error(many, few) <= self.bound:
            return "the result depends on the slices: add noise by interval.noise(scale) only"
        if any(not torch.equal(g.get_state(), generators[0].get_state()) for g in generators[1:]):
            return "the generator is not left where the reference leaves it: draws(grid) says which steps draw noise"
        other = self.run(steps, generator=_seeded(2), slices=min(2, steps))
        if not self.stochastic and not torch.equal(other, few):
            return "the result depends on the generator, but stochastic is False"
        return ""


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
