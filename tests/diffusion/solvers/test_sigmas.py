"""Solvers on `Sigmas`: k-diffusion's samplers on bare denoisers, compared with loops written from their papers."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from parareal_diffusers import (
    DDIM,
    DPM2S,
    KDPM2,
    LMS,
    Churn,
    DPMFast,
    DPMSolver,
    DPMSolverSinglestep,
    Euler,
    Heun,
    Sigmas,
    denoised,
    sample,
)
from parareal_diffusers.testing import GaussianMixture, relative_error
from scipy import integrate

import parareal

MIXTURE = GaussianMixture.random(6, (1, 4, 4))


def latents(sigmas, dtype=torch.float64, samples=2):
    noise = torch.randn(samples, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (sigmas.init_noise_sigma * noise).to(dtype)


def model(x, sigma):
    return MIXTURE.denoise(x, sigma)


def make_generator():
    return torch.Generator().manual_seed(1)


def clean(x, sigma):
    return model(x, sigma.expand(len(x)))


def slope(x, sigma):
    return (x - clean(x, sigma)) / sigma


def towards(x, sigma, target, new):
    """Go from sigma to target in a straight line towards a clean sample."""
    return target / sigma * x + (1 - target / sigma) * new


def ancestral(s, t):
    up = torch.minimum(t, (t**2 * (s**2 - t**2) / s**2) ** 0.5)
    return (t**2 - up**2) ** 0.5, up


def middle(s, t):
    return s.log().lerp(t.log(), 0.5).exp()


def euler(x, s, t, draw):
    return x + slope(x, s) * (t - s)


def heun(x, s, t, draw):
    """Karras et al. (2022), Algorithm 1."""
    d = slope(x, s)
    end = x + d * (t - s)
    return end if t == 0 else x + (d + slope(end, t)) / 2 * (t - s)


def dpm_2(x, s, t, draw):
    """Karras et al. (2022), Algorithm 2, with the middle in log sigma."""
    if t == 0:
        return euler(x, s, t, draw)
    mid = middle(s, t)
    return x + slope(x + slope(x, s) * (mid - s), mid) * (t - s)


def euler_ancestral(x, s, t, draw):
    down, up = ancestral(s, t)
    x = euler(x, s, down, draw)
    return x if t == 0 else x + up * draw()


def dpm_2_ancestral(x, s, t, draw):
    down, up = ancestral(s, t)
    x = dpm_2(x, s, down, draw)
    return x if t == 0 else x + up * draw()


def dpmpp_2s(x, s, t, draw):
    """DPM-Solver++ (2022), Algorithm 1 with r = 1/2."""
    if t == 0:
        return euler(x, s, t, draw)
    mid = middle(s, t)
    return towards(x, s, t, clean(towards(x, s, mid, clean(x, s)), mid))


def dpmpp_2s_ancestral(x, s, t, draw):
    down, up = ancestral(s, t)
    x = dpmpp_2s(x, s, down, draw)
    return x if t == 0 else x + up * draw()


class WithChurn:
    """Karras et al. (2022), Algorithm 2, with k-diffusion's option names; noise is drawn in every step."""

    def __init__(self, step, churn):
        self.step, self.churn = step, churn

    def begin(self, steps):
        self.gamma = min(self.churn.s_churn / steps, 2**0.5 - 1)

    def __call__(self, x, s, t, draw):
        noise = draw() * self.churn.s_noise
        if not self.churn.s_tmin <= s <= self.churn.s_tmax:
            return self.step(x, s, t, draw)
        hat = s * (1 + self.gamma)
        return self.step(x + noise * (hat**2 - s**2) ** 0.5, hat, t, draw)


def dpmpp_sde(x, s, t, draw):
    if t == 0:
        return euler(x, s, t, draw)
    mid = middle(s, t)
    down, up = ancestral(s, mid)
    between = towards(x, s, down, clean(x, s)) + up * draw()
    down, up = ancestral(s, t)
    return towards(x, s, down, clean(between, mid)) + up * draw()


class DPMPP2M:
    """DPM-Solver++ (2022), Algorithm 2, and its SDE form (k-diffusion, `sample_dpmpp_2m_sde`, midpoint)."""

    def __init__(self, noisy):
        self.noisy, self.before = noisy, None

    def __call__(self, x, s, t, draw):
        now, h = clean(x, s), (s / t).log() if t > 0 else torch.tensor(torch.inf)
        new = now
        if self.before is not None and t > 0:
            new = now + (now - self.before[0]) * h / self.before[1] / 2
        self.before = now, h
        if t == 0:
            return new
        if not self.noisy:
            return t / s * x - torch.expm1(-h) * new
        return t / s * (-h).exp() * x - torch.expm1(-2 * h) * new + t * (-torch.expm1(-2 * h)).sqrt() * draw()


class DPMPP3M:
    """SDE-DPM-Solver++(3M) as in k-diffusion, with integrals by quadrature.

    With v = log(s / sigma) the step over h is exp(-2h) x + the integral of 2 exp(2 (v - h)) D(v). D is the polynomial
    through the last predictions, with half of its term in v^2, as in k-diffusion (docs/reference/upstream.md).
    """

    def __init__(self):
        self.before = []

    def __call__(self, x, s, t, draw):
        self.before = [(float(s), clean(x, s)), *self.before][:3]
        now = self.before[0][1]
        if t == 0:
            return now
        h, at = float((s / t).log()), [math.log(float(s) / sigma) for sigma, _ in self.before]

        def power(n):
            return integrate.quad(lambda v: 2 * math.exp(2 * (v - h)) * v**n, 0, h)[0]

        new = math.exp(-2 * h) * x + power(0) * now
        if len(at) > 1:
            slope = (now - self.before[1][1]) / -at[1]
            curvature = 0.0
            if len(at) > 2:
                earlier = (self.before[1][1] - self.before[2][1]) / (at[1] - at[2])
                curvature = (slope - earlier) / -at[2]
            new = new + power(1) * (slope - at[1] * curvature) + power(2) * curvature / 2
        return new + t * math.sqrt(-math.expm1(-2 * h)) * draw()


class Fast:
    """DPM-Solver-fast (2022, Section 3.4): order 3 except in the last steps; Algorithms 1 and 2 in eps and lambda."""

    def __init__(self, ending):
        self.ending = ending

    def begin(self, steps):
        self.left = steps

    def __call__(self, x, s, t, draw):
        order = self.ending[-self.left] if self.left <= len(self.ending) else 3
        self.left -= 1
        h, noise = (s / t).log(), slope(x, s)
        if order == 1:
            return x - (s - t) * noise  # s - t is t * h.expm1(), and is defined for t = 0 too
        if order == 2:
            mid = s * (-h / 2).exp()
            between = slope(x - mid * (h / 2).expm1() * noise, mid)
            return x - t * h.expm1() * noise - t * h.expm1() * (between - noise)
        one, two = s * (-h / 3).exp(), s * (-2 * h / 3).exp()
        d1 = slope(x - one * (h / 3).expm1() * noise, one) - noise
        phi = (2 * h / 3).expm1() / (2 * h / 3) - 1
        d2 = slope(x - two * (2 * h / 3).expm1() * noise - 2 * two * phi * d1, two) - noise
        return x - t * h.expm1() * noise - 1.5 * t * (h.expm1() / h - 1) * d2


class Multistep:
    """Adams-Bashforth on uneven nodes, with coefficients by quadrature (k-diffusion, `sample_lms`)."""

    def __init__(self):
        self.slopes, self.at = [], []

    def __call__(self, x, s, t, draw):
        self.slopes, self.at = [slope(x, s), *self.slopes][:4], [float(s), *self.at][:4]

        def basis(tau, k):
            product = 1.0
            for j, other in enumerate(self.at):
                product *= (tau - other) / (self.at[k] - other) if j != k else 1.0
            return product

        weights = [integrate.quad(basis, float(s), float(t), args=(k,))[0] for k in range(len(self.at))]
        return x + sum(w * d for w, d in zip(weights, self.slopes, strict=True))


SDE = {"lower_order_final": False, "algorithm_type": "sde-dpmsolver++"}
CHURN = Churn(5.0, s_tmin=0.05, s_tmax=8.0, s_noise=1.003)  # only in the steps between the first and the last
SAMPLERS = {
    "euler": (lambda: euler, Euler, {}),
    "heun": (lambda: heun, Heun, {}),
    "dpm_2": (lambda: dpm_2, KDPM2, {}),
    "lms": (Multistep, LMS, {}),
    "dpmpp_2m": (lambda: DPMPP2M(False), DPMSolver, {"lower_order_final": False}),
    "dpmpp_2s": (lambda: dpmpp_2s, DPM2S, {"noise": "none"}),
    "dpmpp_2s, as DPM-Solver": (lambda: dpmpp_2s, DPMSolverSinglestep, {}),
    "euler_ancestral": (lambda: euler_ancestral, Euler, {"ancestral": True}),
    "dpm_2_ancestral": (lambda: dpm_2_ancestral, KDPM2, {"ancestral": True}),
    "dpmpp_2s_ancestral": (lambda: dpmpp_2s_ancestral, DPM2S, {}),
    "dpmpp_sde": (lambda: dpmpp_sde, DPM2S, {"noise": "sde"}),
    "dpmpp_2m_sde": (
        lambda: DPMPP2M(True),
        DPMSolver,
        SDE,
    ),
    "dpmpp_3m_sde": (DPMPP3M, DPMSolver, {"order": 3, "solver_type": "heun", **SDE}),
    "euler, churn": (lambda: WithChurn(euler, CHURN), Euler, {"churn": CHURN}),
    "heun, churn": (lambda: WithChurn(heun, CHURN), Heun, {"churn": CHURN}),
    "heun, churn everywhere": (lambda: WithChurn(heun, Churn(40.0)), Heun, {"churn": Churn(40.0)}),
    "dpm_2, churn": (lambda: WithChurn(dpm_2, CHURN), KDPM2, {"churn": CHURN}),
    "dpm_fast": (lambda: Fast((2, 1)), DPMFast, {}),
    "dpm_fast, ends in order 1": (lambda: Fast((1,)), DPMFast, {"ending": (1,)}),
}


def loop(make, sigmas, x, generator):
    step = make()
    if hasattr(step, "begin"):
        step.begin(len(sigmas.values) - 1)

    def draw():
        return torch.randn(x.shape, generator=generator, dtype=x.dtype)

    for s, t in zip(sigmas.values, sigmas.values[1:], strict=False):
        x = step(x, s, t, draw)
    return x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_result_equals_the_loops(name, dtype):
    """Up to the rounding of sigmas to float32, which changes the weights of multistep methods."""
    make, kind, options = SAMPLERS[name]
    exact = dtype is torch.float64 and kind in (Euler, Heun, KDPM2)
    for steps in (2, 7, 20):
        sigmas = Sigmas.karras(steps, 0.02, 10.0)
        x, solver, generators = latents(sigmas, dtype), kind(sigmas, **options), [make_generator() for _ in range(3)]
        x_before = x.clone()
        expected = loop(make, sigmas, x, generators[0])
        for slices, generator in zip((1, min(4, steps)), generators[1:], strict=True):
            solution = sample(denoised(model), x, solver, slices=slices, tolerance=0, generator=generator)
            assert relative_error(solution.final_state, expected) <= (1e-10 if exact else 3e-5)
            assert torch.equal(generator.get_state(), generators[0].get_state())
        assert torch.equal(x, x_before)


@pytest.mark.parametrize("name", SAMPLERS)
def test_with_calls_of_one_row_it_equals_our_sequential_run_bit_by_bit(name):
    _, kind, options = SAMPLERS[name]
    sigmas = Sigmas.karras(9, 0.02, 10.0)
    one, end, nested, single = (
        sample(
            denoised(model),
            latents(sigmas),
            kind(sigmas, **options),
            max_batch=1,
            tolerance=0,
            generator=make_generator(),
            **way,
        ).final_state
        for way in ({"slices": 1}, {"slices": 4}, {"levels": (2, 2)}, {"slices": "steps"})
    )
    assert torch.equal(one, end)
    assert torch.equal(one, nested)
    assert torch.equal(one, single)


@pytest.mark.parametrize("name", SAMPLERS)
def test_iterations_converge(name):
    """On a single Gaussian, where noise cannot change the mode of a sample."""
    _, kind, options = SAMPLERS[name]
    one = GaussianMixture(torch.full((1, 1, 4, 4), 0.3), deviation=0.2)
    sigmas = Sigmas.karras(40, 0.02, 10.0)
    x, solver = latents(sigmas), kind(sigmas, **options)
    expected = sample(denoised(one.denoise), x, solver, slices=1, generator=make_generator()).final_state
    errors = [
        relative_error(
            sample(
                denoised(one.denoise), x, solver, slices=8, criterion=parareal.Iterations(k), generator=make_generator()
            ).final_state,
            expected,
        )
        for k in (0, 3)
    ]
    assert errors[1] < max(0.05 * errors[0], 1e-6)


@pytest.mark.parametrize("name", ["euler, churn", "heun, churn", "dpm_2, churn", "dpm_fast", "dpmpp_3m_sde"])
def test_it_stops_within_the_tolerance(name):
    _, kind, options = SAMPLERS[name]
    one = denoised(GaussianMixture(torch.full((1, 1, 4, 4), 0.3), deviation=0.2).denoise)
    sigmas = Sigmas.exponential(40, 0.02, 10.0)
    x, solver = latents(sigmas), kind(sigmas, **options)
    expected = sample(one, x, solver, slices=1, generator=make_generator()).final_state
    solution = sample(one, x, solver, slices=8, generator=make_generator(), tolerance=1e-2)
    assert solution.outcome is parareal.Outcome.CONVERGED
    assert relative_error(solution.final_state, expected) < 1e-2


@settings(max_examples=30, deadline=None)
@given(
    steps=st.integers(1, 30),
    low=st.floats(1e-3, 0.1),
    high=st.floats(1.0, 80.0),
    rho=st.floats(1.0, 10.0),
    name=st.sampled_from(sorted(SAMPLERS)),
    slices=st.integers(1, 6),
)
def test_any_levels_give_the_sequential_result(steps, low, high, rho, name, slices):
    _, kind, options = SAMPLERS[name]
    sigmas = Sigmas.karras(steps, low, high, rho)
    assert float(sigmas.values[-1]) == 0
    assert bool((sigmas.values.diff() < 0).all())
    # From a level to a thousandth of it, ancestral steps aim at a sigma that rounds to 0, which is refused.
    assume("ancestral" not in name or bool((sigmas.values[1:-1] > 2e-3 * sigmas.values[:-2]).all()))
    solver = kind(sigmas, **options)
    count = solver.grid_on(sigmas).steps
    ends = [
        sample(
            denoised(model), latents(sigmas), solver, slices=n, tolerance=0, max_batch=1, generator=make_generator()
        ).final_state
        for n in (1, min(slices, count))
    ]
    assert torch.equal(*ends)


@pytest.mark.parametrize("name", ["heun", "dpm_2", "dpmpp_2s", "euler, churn", "heun, churn", "dpm_2, churn"])
def test_levels_may_end_above_zero(name):
    sigmas = Sigmas(torch.tensor([10.0, 5.0, 2.0, 1.0, 0.5]))
    make, kind, options = SAMPLERS[name]
    x, solver = latents(sigmas), kind(sigmas, **options)
    expected = loop(make, sigmas, x, make_generator())
    assert (
        relative_error(
            sample(denoised(model), x, solver, tolerance=0, generator=make_generator()).final_state, expected
        )
        < 1e-6
    )


@pytest.mark.parametrize("evaluations", [1, 2, 3, 4, 5, 6, 19, 20, 21])
def test_dpm_fast_makes_the_requested_number_of_evaluations(evaluations):
    solver = DPMFast.evenly(evaluations, 0.02, 10.0)
    x = latents(solver.scheduler)
    expected = loop(lambda: Fast(solver.ending), solver.scheduler, x, None)
    for slices in (1, min(4, evaluations)):
        solution = sample(denoised(model), x, solver, slices=slices, tolerance=0)
        assert relative_error(solution.final_state, expected) < 1e-4  # long steps amplify the rounding of sigmas
        assert solution.stats.sequential_span == evaluations


def test_dpm_fast_is_of_third_order():
    """With twice the steps the error at sigma 0.02 should fall by a factor of 8; the test requires 6."""
    one = denoised(GaussianMixture(torch.full((1, 1, 4, 4), 0.3), deviation=0.5).denoise)

    def end(steps):
        sigmas = Sigmas(Sigmas.exponential(steps, 0.02, 10.0).values[:-1])
        x = latents(sigmas)
        return sample(one, x, DPMFast(sigmas, ending=()), slices=1).final_state

    exact = end(400)
    errors = [relative_error(end(n), exact) for n in (9, 17)]
    assert errors[0] > 6 * errors[1] > 0


PATHS = ["euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_2m_sde", "dpmpp_3m_sde"]


def loop_on_a_path(make, sigmas, x, path):
    step = make()
    for s, t in zip(sigmas.values, sigmas.values[1:], strict=False):
        x = step(x, s, t, lambda s=s, t=t: path(s, t))
    return x


@pytest.mark.parametrize("name", PATHS)
def test_noise_from_a_noise_sampler(name):
    """The sampler is a smooth function of both sigmas, so that the result shows its arguments."""
    make, kind, options = SAMPLERS[name]
    sigmas = Sigmas.karras(9, 0.02, 10.0)
    x = latents(sigmas)
    phase = torch.linspace(0, 20, x.numel(), dtype=x.dtype).reshape(x.shape)
    calls = []

    def path(s, t):
        calls.append((float(s), float(t)))
        return 1.4 * torch.sin(phase * (1 + s) + 3 * t)

    expected = loop_on_a_path(make, sigmas, x, path)
    before, calls = calls, []
    state = torch.get_rng_state()
    for slices in (1, 4):
        calls.clear()
        solution = sample(denoised(model), x, kind(sigmas, **options), slices=slices, tolerance=0, noise_sampler=path)
        assert relative_error(solution.final_state, expected) <= 1e-5
        assert calls == before
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.filterwarnings("ignore:Should have")  # float32 rounds levels beyond the path's ends
@pytest.mark.parametrize("name", PATHS)
def test_noise_from_a_brownian_path(name):
    """The default of k-diffusion's SDE samplers, as implemented in diffusers."""
    pytest.importorskip("torchsde")
    from diffusers.schedulers.scheduling_dpmsolver_sde import BrownianTreeNoiseSampler

    make, kind, options = SAMPLERS[name]
    sigmas = Sigmas.karras(9, 0.02, 10.0)
    x, (low, high) = latents(sigmas), sigmas.values[[-2, 0]].tolist()
    expected = loop_on_a_path(make, sigmas, x, BrownianTreeNoiseSampler(x, low, high, seed=3))
    for seed, agrees in ((3, True), (4, False)):
        path = BrownianTreeNoiseSampler(x, low, high, seed=seed)
        solution = sample(denoised(model), x, kind(sigmas, **options), tolerance=0, noise_sampler=path)
        assert (relative_error(solution.final_state, expected) <= 1e-5) == agrees


def test_dpmpp_sde_calls_the_noise_sampler_for_both_stages():
    sigmas, calls = Sigmas.karras(5, 0.02, 10.0), []
    x = latents(sigmas)

    def path(s, t):
        calls.append((s, t))
        return torch.ones_like(x)

    sample(denoised(model), x, DPM2S(sigmas, noise="sde"), noise_sampler=path)
    levels = sigmas.values
    expected = [(s, end) for s, t in pairwise(levels[:-1]) for end in (middle(s, t), t)]
    torch.testing.assert_close(torch.tensor(calls), torch.tensor(expected))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0], "at least two numbers"),
        ([[1.0, 0.5]], "at least two numbers"),
        ([0.5, 1.0], "fall strictly"),
        ([1.0, 1.0, 0.0], "fall strictly"),
        ([1.0, -0.5], "fall strictly"),
        ([torch.inf, 1.0], "must be finite"),
    ],
)
def test_wrong_levels_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Sigmas(values)


def test_wrong_options_of_karras_are_refused():
    with pytest.raises(ValueError, match="0 < sigma_min < sigma_max"):
        Sigmas.karras(5, 2.0, 1.0)
    with pytest.raises(ValueError, match="steps"):
        Sigmas.karras(0)


def test_unsupported_combinations_are_refused_before_any_work():
    sigmas = Sigmas.karras(5)
    x = latents(sigmas)
    with pytest.raises(ValueError, match="mark a model that takes sigma"):
        sample(model, x, Euler(sigmas))
    with pytest.raises(ValueError, match="leave num_inference_steps out"):
        sample(denoised(model), x, Euler(sigmas), num_inference_steps=5)
    with pytest.raises(ValueError, match="two nodes at each level"):
        Heun().check_fine(Euler().grid_on(sigmas))
    with pytest.raises(ValueError, match="steps over the nodes of Sigmas"):
        sample(lambda x, t: x, x, Heun(DDIMScheduler()), num_inference_steps=5)
    with pytest.raises(ValueError, match="orders 1 and 2 only"):
        sample(denoised(model), x, DPMSolverSinglestep(sigmas, order=3))
    with pytest.raises(ValueError, match="alpha"):
        sample(denoised(model), x, DDIM(sigmas, eta=0.5))
    with pytest.raises(ValueError, match="noise"):
        DPM2S(noise="brownian")
