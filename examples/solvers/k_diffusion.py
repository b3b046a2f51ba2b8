"""Samplers of k-diffusion in parallel in time, on a bare denoiser: a function of state and sigma.

    python examples/solvers/k_diffusion.py

Prints iterations, error, span and work, and draws the iterates into report/k-diffusion.png. The reference is a run with
one slice, because there is no scheduler. Takes some minutes on two cores.
"""

import torch
from parareal_diffusers import DPM2S, Churn, DPMFast, Guidance, Heun, Sigmas, denoised, models, sample
from parareal_diffusers.testing import relative_error
from picture import LABELS, draw, parse_options

import parareal

if __name__ == "__main__":
    options = parse_options(__doc__)
    net, scheduler = models.load(options.model)
    ratios = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod) ** 0.5  # the sigma of each timestep
    logs = ratios.log()

    def denoiser(x: torch.Tensor, sigma: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
        """Return the clean sample, from a network that takes timesteps and predicts noise."""
        # Timesteps between those of the schedule are interpolated in log sigma.
        above = torch.searchsorted(ratios, sigma).clamp(1, len(ratios) - 1)
        timestep = above - ((logs[above] - sigma.log()) / (logs[above] - logs[above - 1])).clamp(0, 1)
        sigma = sigma[:, None, None, None]
        # The network expects states of variance one, x / sqrt(sigma^2 + 1).
        return x - sigma * net(x / (sigma**2 + 1) ** 0.5, timestep, class_labels=class_labels).sample

    sigmas = Sigmas.karras(options.steps // 2, float(ratios[0]), float(ratios[-1]))
    noise = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(options.seed))
    rows = {}
    solvers = {
        "heun, s_churn 10": Heun(sigmas, churn=Churn(10.0, 0.05, 50.0)),
        "dpm_fast": DPMFast.evenly(options.steps, float(ratios[0]), float(ratios[-1])),
        "dpmpp_2s_ancestral": DPM2S(sigmas),
    }
    for name, solver in solvers.items():
        iterates: list[torch.Tensor] = []

        def store_iterate(refinement: parareal.Refinement, iterates: list[torch.Tensor] = iterates) -> None:
            """Append the newest final state; the default binds the list of this solver."""
            iterates.append(refinement.final_state)

        solutions = [
            sample(
                denoised(denoiser),
                sigmas.init_noise_sigma * noise,
                solver,
                slices=slices,
                guidance=Guidance(2.0, {"class_labels": torch.full_like(LABELS, 10)}),
                model_kwargs={"class_labels": LABELS},
                generator=torch.Generator().manual_seed(options.seed + 1),
                tolerance=options.tolerance,
                callback=store_iterate if slices > 1 else None,
            )
            for slices in (1, options.slices)
        ]
        stats, error = solutions[1].stats, relative_error(solutions[1].final_state, solutions[0].final_state)
        print(
            f"{name}: {solutions[1].message} {solutions[1].iterations} iterations, worst relative error {error:.1e}; "
            f"span {stats.span:.0f} of {stats.sequential_span:.0f}, work {stats.work / stats.sequential_work:.2f} times"
        )
        rows[name] = [*iterates, solutions[0].final_state]
    draw(options.out / "k-diffusion.png", rows, reference="one slice")
