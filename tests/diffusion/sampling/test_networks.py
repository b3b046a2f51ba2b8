"""Kinds of networks: transformers, k-diffusion's convention, half precision, fixed batch sizes."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiTTransformer2DModel, DPMSolverMultistepScheduler
from parareal_diffusers import DDIM, Guidance, denoised, sample
from parareal_diffusers.testing import GaussianMixture, relative_error, scheduler_loop

SCHEDULER = DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
MIXTURE = GaussianMixture.random(5, (1, 4, 4))


def latents(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def transformer():
    torch.manual_seed(0)
    return DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=2,
        out_channels=4,
        num_layers=2,
        norm_num_groups=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=1000,
    ).eval()


@pytest.mark.parametrize("kind", [DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler])
def test_a_transformer_with_labels_guidance_and_a_predicted_variance(kind):
    network, x, labels = transformer(), latents(2, 2, 8, 8), torch.tensor([3, 5])
    scheduler = kind(**({} if kind is DPMSolverMultistepScheduler else {"clip_sample": False}))
    if kind is DDPMScheduler:
        scheduler = DDPMScheduler(clip_sample=False, variance_type="learned_range")

    def guide(x, t):
        unconditional = network(x, t, class_labels=torch.tensor([9, 9])).sample
        output = unconditional + 1.5 * (network(x, t, class_labels=labels).sample - unconditional)
        return output if kind is DDPMScheduler else output[:, :2]  # the others do not use the predicted variance

    expected = scheduler_loop(guide, x, scheduler, 12, torch.Generator().manual_seed(1))
    solution = sample(
        network,
        x,
        scheduler,
        num_inference_steps=12,
        model_kwargs={"class_labels": labels},
        guidance=Guidance(1.5, {"class_labels": torch.tensor([9, 9])}),
        generator=torch.Generator().manual_seed(1),
        tolerance=0,
    )
    assert relative_error(solution.final_state, expected) < 1e-5


@pytest.mark.parametrize("kind", [DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler])
def test_a_network_in_k_diffusions_convention(kind):
    """Sampling with `model(x, sigma)` gives the result of the scheduler's loop with a network that predicts x0."""
    scheduler = kind(**({} if kind is DPMSolverMultistepScheduler else {"clip_sample": False}))
    x = latents(2, 1, 4, 4, dtype=torch.float64)
    clean = kind.from_config(scheduler.config, prediction_type="sample")
    expected = scheduler_loop(MIXTURE.model(scheduler, "sample"), x, clean, 20, torch.Generator().manual_seed(1))
    sigmas = []

    def model(x, sigma):
        assert sigma.shape == (len(x),)
        assert sigma.dtype is x.dtype
        sigmas.append(float(sigma.max()))
        return MIXTURE.denoise(x, sigma)

    generator = torch.Generator().manual_seed(1)
    solution = sample(denoised(model), x, scheduler, num_inference_steps=20, tolerance=0, generator=generator)
    assert relative_error(solution.final_state, expected) < 1e-5
    assert max(sigmas) > 50


def test_a_denoised_model_at_zero_signal_is_refused():
    zero = DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    with pytest.raises(ValueError, match="sigma would be infinite"):
        sample(denoised(MIXTURE.denoise), latents(1, 1, 4, 4), zero, num_inference_steps=10)


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"pad_batch": True, "max_batch": 6}, {6}),
        ({"pad_batch": (1, 4, 9)}, {1, 4, 9}),
        ({"pad_batch": [12], "max_batch": 12}, {12}),
    ],
)
def test_calls_are_filled_up_to_fixed_sizes(options, sizes):
    model, x, sizes_called = MIXTURE.model(SCHEDULER), latents(1, 1, 4, 4, dtype=torch.float64), set()

    def network(x, t):
        sizes_called.add(len(x))
        return model(x, t)

    solution = sample(network, x, SCHEDULER, num_inference_steps=25, tolerance=0, **options)
    assert sizes_called <= sizes
    assert relative_error(solution.final_state, scheduler_loop(model, x, SCHEDULER, 25)) < 1e-10
    assert solution.stats.work == sample(model, x, SCHEDULER, num_inference_steps=25, tolerance=0).stats.work


def test_filled_calls_with_conditioning_and_guidance():
    sizes_called = set()

    def model(x, t, bias):
        sizes_called.add(len(x))
        return x * 0.5 + bias[:, None, None, None]

    x, bias = latents(3, 1, 4, 4), torch.tensor([0.1, 0.2, 0.3])
    options = {"model_kwargs": {"bias": bias}, "guidance": Guidance(2.0, {"bias": bias * 0})}
    options |= {"num_inference_steps": 16, "tolerance": 0}
    expected = sample(model, x, SCHEDULER, **options).final_state
    sizes_called.clear()
    result = sample(model, x, SCHEDULER, pad_batch=True, max_batch=5, **options).final_state
    assert sizes_called == {10}
    assert relative_error(result, expected) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_networks_and_stochastic_solvers(dtype):
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(1, 1, 3, padding=1).to(dtype)

    def reference(x, t):
        return convolution(x.to(dtype)).float()

    class HalfPrecisionNetwork(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = convolution

        def forward(self, x, t):
            assert x.dtype is dtype
            return self.inner(x)

    x, scheduler = latents(2, 1, 6, 6), DDPMScheduler()
    expected = scheduler_loop(reference, x, scheduler, 10, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    solution = sample(HalfPrecisionNetwork(), x, scheduler, num_inference_steps=10, slices=1, generator=generator)
    assert solution.final_state.dtype is torch.float32
    assert torch.equal(solution.final_state, expected)


def test_a_compiled_network_is_called_with_two_batch_sizes_only():
    """The purpose of `pad_batch`: torch.compile with static shapes compiles one graph per batch size."""
    graphs = []

    def backend(graph, example_inputs):
        graphs.append([tuple(x.shape) for x in example_inputs if isinstance(x, torch.Tensor)])
        return graph.forward

    model = torch.compile(lambda x, t: 0.7 * x, backend=backend, dynamic=False)
    x = latents(1, 1, 4, 4)
    sample(model, x, SCHEDULER, num_inference_steps=25, pad_batch=(1, 8), tolerance=0)
    assert len(graphs) <= 2


def test_the_mixture_has_the_exact_score():
    """Its predicted noise is -sigma times the gradient of log p."""
    alpha, sigma = torch.tensor([0.8, 0.3]).double(), torch.tensor([0.6, 0.9539392]).double()
    x = latents(2, 1, 4, 4, dtype=torch.float64).requires_grad_()
    variance = (alpha * MIXTURE.deviation) ** 2 + sigma**2
    centres = alpha[:, None, None] * MIXTURE.means.flatten(1)
    squares = ((x.flatten(1)[:, None] - centres) ** 2).sum(-1)
    log_p = torch.logsumexp(-0.5 * squares / variance[:, None], dim=1).sum()
    (score,) = torch.autograd.grad(log_p, x)
    clean = MIXTURE.clean(x.detach(), alpha, sigma)
    noise = (x.detach() - alpha[:, None, None, None] * clean) / sigma[:, None, None, None]
    torch.testing.assert_close(noise, -sigma[:, None, None, None] * score, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 5), (3, 4, 4)])
def test_an_output_that_would_broadcast_is_refused(shape):
    with pytest.raises(ValueError, match="must return the same shape"):
        sample(lambda x, t: x.new_zeros(len(x), *shape), latents(2, 1, 4, 4), SCHEDULER, num_inference_steps=5)


def test_eta_above_one_is_refused():
    with pytest.raises(ValueError, match="eta must be between 0"):
        DDIM(SCHEDULER, eta=1.5)
