"""A test problem with an exact score: a mixture of Gaussians."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from parareal.driver import one_of
from parareal_diffusers._grid.grid import per_row


@final
@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """Equally likely isotropic Gaussians, whose diffusion has a score in closed form: no network, no training error.

    With x = alpha * clean + sigma * noise, component j of x has mean alpha * means[j] and variance
    v = (alpha * deviation)^2 + sigma^2. The expected clean sample is the mean of the components' conditional means
    (of Gaussians), weighed by how likely each component is given x. The flow is smooth, but chooses between modes.

    Args:
        means: of shape (components, *sample).
        deviation: of every component, in each dimension.
    """

    means: Tensor
    deviation: float = 0.1

    @staticmethod
    def random(
        components: int = 12, shape: tuple[int, ...] = (1, 8, 8), deviation: float = 0.1, seed: int = 0
    ) -> "GaussianMixture":
        """Draw means from a standard normal distribution."""
        generator = torch.Generator().manual_seed(seed)
        return GaussianMixture(torch.randn(components, *shape, generator=generator, dtype=torch.float64), deviation)

    def clean(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return the expected clean sample given x, of shape (R, *sample), at levels of shape (R,)."""
        alpha, sigma, means = alpha.double(), sigma.double(), self.means.to(x.device, torch.float64)
        variance = (alpha * self.deviation) ** 2 + sigma**2
        flat, centres = x.double().flatten(1), means.flatten(1)
        squares = ((flat[:, None] - alpha[:, None, None] * centres) ** 2).sum(-1)
        weights = torch.softmax(-0.5 * squares / variance[:, None], dim=1)
        centre = (weights @ centres).reshape(x.shape)
        gain = alpha * self.deviation**2 / variance
        return (centre + per_row(gain, x) * (x.double() - per_row(alpha, x) * centre)).to(x.dtype)

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the expected clean sample given x = clean + sigma * noise; mark it `denoised` for `sample`."""
        return self.clean(x, torch.ones_like(sigma), sigma)

    def model(self, scheduler: Any, prediction_type: str = "epsilon") -> Callable[[Tensor, Tensor], Tensor]:
        """Return a perfect network `model(x, t)` for a scheduler.

        Args:
            scheduler: any diffusers scheduler with `alphas_cumprod`, or a flow's.
            prediction_type: what the network predicts: `"epsilon"`, `"v_prediction"`, `"sample"`, of inputs with
                alpha^2 + sigma^2 = 1, or `"flow_prediction"`, the velocity noise - clean at sigma = t / T.
        """
        one_of("prediction_type", prediction_type, ("epsilon", "v_prediction", "sample", "flow_prediction"))
        flow = prediction_type == "flow_prediction"
        levels = _flow_levels if flow else _levels

        def model(x: Tensor, t: Tensor) -> Tensor:
            alpha, sigma = (level.expand(len(x)) for level in levels(scheduler, t.to(x.device)))
            clean = self.clean(x, alpha, sigma).double()
            if prediction_type == "sample":
                return clean.to(x.dtype)
            noise = (x.double() - per_row(alpha, x) * clean) / per_row(sigma, x)
            if flow:
                return (noise - clean).to(x.dtype)
            velocity = per_row(alpha, x) * noise - per_row(sigma, x) * clean
            return (noise if prediction_type == "epsilon" else velocity).to(x.dtype)

        return model


def _levels(scheduler: Any, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return alpha and sigma at timesteps; between two of them sigma / alpha is interpolated in its logarithm."""
    alphas_cumprod = scheduler.alphas_cumprod.to(t.device).double()
    ratio = 0.5 * (torch.log1p(-alphas_cumprod) - torch.log(alphas_cumprod))
    below = t.double().floor()
    share, at = t.double() - below, below.long()
    ratio = torch.exp((1 - share) * ratio[at] + share * ratio[(at + 1).clamp(max=len(ratio) - 1)])
    alpha = 1 / (1 + ratio**2).sqrt()
    return alpha, alpha * ratio


def _flow_levels(scheduler: Any, t: Tensor) -> tuple[Tensor, Tensor]:
    sigma = t.double() / scheduler.config["num_train_timesteps"]
    return 1 - sigma, sigma
