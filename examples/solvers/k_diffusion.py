"""k-diffusion's samplers on a bare denoiser, which is told sigma, in parallel in time.

python examples/solvers/k_diffusion.py
"""

import torch
from parareal_diffusers import DPM2S, Churn, DPMFast, Guidance, Heun, Sigmas, denoised, models, sample
from parareal_diffusers.testing import relative_error
from picture import LABELS, draw, options

import parareal

if __name__ == "__main__":
    given = options(__doc__)
    net, scheduler = models.load(given.model)
    ratios = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod) ** 0.5  # the sigma of each timestep
    logs = ratios.log()

    def denoiser(x: torch.Tensor, sigma: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
        """Return the clean sample, from a network that is told timesteps and predicts noise."""
        above = torch.searchsorted(ratios, sigma).clamp(1, len(ratios) - 1)  # between two timesteps, in log sigma
        timestep = above - ((logs[above] - sigma.log()) / (logs[above] - logs[above - 1])).clamp(0, 1)
        wide = sigma[:, None, None, None]
        return x - wide * net(x / (wide**2 + 1) ** 0.5, timestep, class_labels=class_labels).sample

    sigmas = Sigmas.karras(given.steps // 2, float(ratios[0]), float(ratios[-1]))
    noise = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(given.seed))
    rows = {}
    solvers = {
        "heun, s_churn 10": Heun(sigmas, churn=Churn(10.0, 0.05, 50.0)),
        "dpm_fast": DPMFast.evenly(given.steps, float(ratios[0]), float(ratios[-1])),
        "dpmpp_2s_ancestral": DPM2S(sigmas),
    }
    for name, solver in solvers.items():
        iterates: list[torch.Tensor] = []

        def keep(refinement: parareal.Refinement, iterates: list[torch.Tensor] = iterates) -> None:
            """Note an iterate."""
            iterates.append(refinement.final_state)

        ends = [
            sample(
                denoised(denoiser),
                sigmas.init_noise_sigma * noise,
                solver,
                slices=slices,
                guidance=Guidance(2.0, {"class_labels": torch.full_like(LABELS, 10)}),
                model_kwargs={"class_labels": LABELS},
                generator=torch.Generator().manual_seed(given.seed + 1),
                tolerance=given.tolerance,
                callback=keep if slices > 1 else None,
            )
            for slices in (1, given.slices)
        ]
        stats, error = ends[1].stats, relative_error(ends[1].final_state, ends[0].final_state)
        print(
            f"{name}: {ends[1].message} {ends[1].iterations} iterations, worst error {error:.1e}; "
            f"span {stats.span:.0f} of {stats.sequential_span:.0f}, work {stats.work / stats.sequential_work:.2f} times"
        )
        rows[name] = [*iterates, ends[0].final_state]
    draw(given.out / "k-diffusion.png", rows, answer="one slice")
