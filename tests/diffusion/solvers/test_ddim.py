"""`sample` gives the result of the loop over the unmodified DDIM scheduler."""

import copy

import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler, UNet2DConditionModel, UNet2DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from parareal_diffusers import DDIM, Guidance, picard, sample, srds

import parareal

MEANS = torch.tensor([-0.8, 0.1, 0.9])


def mixture(scheduler):
    """Return the exact noise prediction for three Gaussians of deviation 0.3 per pixel, as `model(x, t)`."""
    alphas = scheduler.alphas_cumprod.double()

    def model(x, t):
        a = alphas[t].reshape(-1, *[1] * (x.ndim - 1)).to(x)
        means, variance = MEANS.to(x), a * 0.09 + 1 - a
        weights = torch.softmax(-((x[..., None] - a.sqrt()[..., None] * means) ** 2) / (2 * variance[..., None]), -1)
        return (1 - a).sqrt() / variance * (x - a.sqrt() * (weights * means).sum(-1))

    return model


def loop(model, x, scheduler, steps):
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(steps)
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(model(x, t.expand(len(x))), t, x).prev_sample
    return x


def error(x, reference):
    return float((x - reference).square().mean().sqrt() / reference.square().mean().sqrt())


def noise(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("steps", [25, 50, 100, 196, 961])
def test_the_result_equals_the_unmodified_schedulers(spacing, steps):
    scheduler = DDIMScheduler(clip_sample=False, timestep_spacing=spacing)
    model, x = mixture(scheduler), noise(2, 1, 6, 6)
    reference = loop(model, x, scheduler, steps)
    one = sample(model, x, scheduler, num_inference_steps=steps, slices=1)
    assert torch.equal(one.final_state, reference)
    end = sample(model, x, scheduler, num_inference_steps=steps, tolerance=0)
    assert error(end.final_state, reference) < 1e-6
    assert end.outcome is parareal.Outcome.EXACT
    scheduler.set_timesteps(steps)
    assert end.stats.sequential_span == len(
        scheduler.timesteps
    )  # the steps that the scheduler makes: 962 for 961 with trailing spacing
    close = sample(model, x, scheduler, num_inference_steps=steps, tolerance=1e-3)
    assert error(close.final_state, reference) < 1e-3


@settings(max_examples=40, deadline=None)
@given(
    steps=st.integers(1, 120),
    spacing=st.sampled_from(["leading", "trailing", "linspace"]),
    prediction=st.sampled_from(["epsilon", "v_prediction", "sample"]),
    clip=st.booleans(),
    alpha_one=st.booleans(),
    offset=st.integers(0, 1),
    betas=st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    coarse=st.sampled_from(["same", "auto", "identity"]),
)
def test_every_configuration_equals_the_loop(steps, spacing, prediction, clip, alpha_one, offset, betas, dtype, coarse):
    scheduler = DDIMScheduler(
        clip_sample=clip,
        timestep_spacing=spacing,
        prediction_type=prediction,
        set_alpha_to_one=alpha_one,
        steps_offset=offset,
        beta_schedule=betas,
    )

    def model(x, t):
        return 0.8 * x - 0.3 * x.tanh() * (t.reshape(-1, 1, 1, 1) / 1000)

    x = noise(1, 1, 3, 3, dtype=dtype)
    reference = loop(model, x, scheduler, steps)
    solution = sample(model, x, scheduler, num_inference_steps=steps, tolerance=0, coarse=coarse)
    assert error(solution.final_state, reference) < (1e-5 if dtype is torch.float32 else 1e-10)


def tiny_unet(**options):
    torch.manual_seed(0)
    blocks = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
    blocks |= {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    return UNet2DModel(sample_size=8, in_channels=1, out_channels=1, **blocks, **options).eval()


SCHEDULER = DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
ZERO_SIGNAL = DDIMScheduler(clip_sample=False, timestep_spacing="trailing", rescale_betas_zero_snr=True)


def test_a_unet_with_labels_and_guidance():
    """Every sample keeps its own label and gets its own result, although rows of all samples share calls."""
    net = tiny_unet(num_class_embeds=4)
    x, labels = noise(3, 1, 8, 8), torch.tensor([0, 2, 1])
    free = Guidance(2.5, {"class_labels": torch.full((3,), 3)})

    def guidance_model(x, t):
        unconditional = net(x, t, class_labels=torch.full((len(x),), 3)).sample
        return unconditional + 2.5 * (net(x, t, class_labels=labels).sample - unconditional)

    reference = loop(guidance_model, x, SCHEDULER, 16)
    options = {"num_inference_steps": 16, "model_kwargs": {"class_labels": labels}, "guidance": free}
    solution = sample(net, x, SCHEDULER, tolerance=0, **options)
    assert error(solution.final_state, reference) < 1e-5
    assert solution.stats.sequential_work == 48  # the guided pair is one evaluation
    swapped = options | {"model_kwargs": {"class_labels": torch.tensor([1, 2, 0])}}
    other = sample(net, x, SCHEDULER, tolerance=0, **swapped)
    assert error(other.final_state[1:2], reference[1:2]) < 1e-5
    assert error(other.final_state[0:1], reference[0:1]) > 1e-3


def test_nested_conditioning_reaches_a_text_model():
    torch.manual_seed(0)
    net = UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=8,
        in_channels=2,
        out_channels=2,
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=8 + 6 * 4,
    ).eval()
    x, text = noise(2, 2, 8, 8), noise(2, 5, 8, seed=1)
    added = {"text_embeds": noise(2, 8, seed=2), "time_ids": noise(2, 6, seed=3)}
    kwargs = {"encoder_hidden_states": text, "added_cond_kwargs": added}
    reference = loop(lambda x, t: net(x, t, **kwargs).sample, x, SCHEDULER, 12)
    solution = sample(net, x, SCHEDULER, num_inference_steps=12, model_kwargs=kwargs, tolerance=0)
    assert error(solution.final_state, reference) < 1e-5


def test_a_half_precision_network_keeps_float32_states():
    net = tiny_unet().to(torch.bfloat16)
    x = noise(1, 1, 8, 8)

    def cast(x, t):
        return net(x.bfloat16(), t).sample.float()

    solution = sample(net, x, SCHEDULER, num_inference_steps=9, slices=1)
    assert solution.final_state.dtype is torch.float32
    assert torch.equal(solution.final_state, loop(cast, x, SCHEDULER, 9))


def test_presets_have_their_slices_and_spans():
    model, x = mixture(SCHEDULER), noise(2, 1, 6, 6)
    reference = loop(model, x, SCHEDULER, 49)
    published = sample(model, x, SCHEDULER, num_inference_steps=49, **srds())
    assert len(published.boundaries) == 8
    assert published.stats.span == published.iterations * 7 + 7 - published.iterations
    assert error(published.final_state, reference) < 1e-2
    paradigms = sample(model, x, SCHEDULER, num_inference_steps=49, tolerance=1e-3, **picard())
    assert len(paradigms.boundaries) == 50
    assert error(paradigms.final_state, reference) < 1e-3
    assert paradigms.stats.span <= paradigms.iterations < 49
    sliding = sample(model, x, SCHEDULER, num_inference_steps=49, tolerance=1e-3, **picard(8))
    assert error(sliding.final_state, reference) < 2e-3
    assert sliding.stats.peak_batch <= 2 * 8 * len(x) < paradigms.stats.peak_batch
    assert sliding.stats.span > paradigms.stats.span
    one = sample(model, x, SCHEDULER, num_inference_steps=49, tolerance=1e-3, **picard(1))
    assert torch.equal(one.final_state, sample(model, x, SCHEDULER, num_inference_steps=49, slices=1).final_state)


@pytest.mark.parametrize("schedule", ["pipelined", "synchronous"])
def test_levels_and_windows_reach_the_sequential_result(schedule):
    model, x = mixture(SCHEDULER), noise(3, 1, 6, 6, dtype=torch.float64)
    reference = loop(model, x, SCHEDULER, 60)
    options = {"num_inference_steps": 60, "schedule": schedule}
    for choice in ({"levels": (5, 4)}, {"window": 4}, {"levels": (4, 3), "window": 2, "coarse": "same"}):
        end = sample(model, x, SCHEDULER, tolerance=0, **choice, **options)
        assert end.outcome is parareal.Outcome.EXACT
        torch.testing.assert_close(end.final_state, reference, rtol=1e-9, atol=1e-9)
        near = sample(model, x, SCHEDULER, tolerance=1e-2, **choice, **options)
        assert error(near.final_state, reference) < 1e-2
    uneven = sample(model, x, SCHEDULER, levels=(3, 4), boundaries=[0, 30, 50, 60], tolerance=1e-3, **options)
    assert error(uneven.final_state, reference) < 1e-3
    with pytest.raises(ValueError, match="leave slices=4 out"):
        sample(model, x, SCHEDULER, levels=(5, 4), slices=4, **options)


@pytest.mark.parametrize("levels", [(13, 3), (13, 2, 2), (5, 4)])
def test_a_nested_solve_stops_at_the_first_iterate_whose_estimate_is_within_the_tolerance(levels):
    """The estimated error includes the error of the last inner solve, so nothing else delays the stop."""
    model, x = mixture(SCHEDULER), noise(2, 1, 6, 6, dtype=torch.float64)
    reference, estimates, errors = loop(model, x, SCHEDULER, 100), [], []

    def record(refinement):
        estimates.append(torch.from_numpy(refinement.error_estimate))
        errors.append(
            torch.tensor([error(u[None], r[None]) for u, r in zip(refinement.final_state, reference, strict=True)])
        )

    options = {"num_inference_steps": 100, "levels": levels, "coarse": "extrapolated"}
    for tolerance in (1e-2, 1e-3, 1e-4):
        estimates.clear(), errors.clear()
        solution = sample(model, x, SCHEDULER, tolerance=tolerance, callback=record, **options)
        first = (torch.stack(estimates) <= tolerance).int().argmax(dim=0)
        assert solution.slice_iterations[-1].tolist() == first.tolist()
        ratios = torch.stack(estimates[1:]) / torch.stack(errors[1:])
        assert ratios.min() > 0.5
        assert ratios.max() < 30


def test_second_order_jumps_beat_first_order_ones():
    model, x = mixture(SCHEDULER), noise(4, 1, 6, 6, dtype=torch.float64)
    reference = loop(model, x, SCHEDULER, 100)
    errors = {
        coarse: error(
            sample(
                model, x, SCHEDULER, num_inference_steps=100, coarse=coarse, criterion=parareal.Iterations(1)
            ).final_state,
            reference,
        )
        for coarse in ("same", "dpmpp_2m")
    }
    assert errors["dpmpp_2m"] < errors["same"] / 2


def test_the_scheduler_and_the_latents_are_left_alone():
    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(7)
    before, x = scheduler.timesteps.clone(), noise(1, 1, 6, 6)
    original = x.clone()
    sample(mixture(scheduler), x, scheduler, num_inference_steps=25)
    assert torch.equal(scheduler.timesteps, before)
    assert torch.equal(x, original)
    steps = sample(mixture(scheduler), x, scheduler, slices="steps")  # the 7 steps that set_timesteps chose before
    assert len(steps.boundaries) == 8


def test_max_batch_bounds_the_rows_of_a_call():
    sizes = []

    def model(x, t):
        sizes.append(len(x))
        return mixture(SCHEDULER)(x, t)

    x = noise(3, 1, 4, 4)
    solution = sample(model, x, SCHEDULER, num_inference_steps=36, max_batch=4, tolerance=0)
    assert max(sizes) == solution.stats.peak_batch == 4
    assert error(solution.final_state, loop(mixture(SCHEDULER), x, SCHEDULER, 36)) < 1e-6


@pytest.mark.parametrize(
    ("kind", "message", "change"),
    [
        (ValueError, "latents must be a tensor of shape", {"latents": [1.0]}),
        (ValueError, "at least two dimensions", {"latents": torch.ones(3)}),
        (TypeError, "latents must be float32 or float64, not torch.float16", {"latents": torch.ones(1, 2).half()}),
        (ValueError, "PNDMScheduler cannot be sampled in parallel in time", {"solver": PNDMScheduler()}),
        (ValueError, r"DDIM needs the nodes to step over: DDIM\(scheduler\)", {"solver": DDIM()}),
        (ValueError, "num_inference_steps is needed", {"num_inference_steps": None}),
        (
            ValueError,
            "zero signal",
            {"solver": ZERO_SIGNAL},
        ),
        (ValueError, "slices must be one of 'auto'", {"slices": "squrt"}),
        (ValueError, "slices must be a whole number between 1 and the 25 steps", {"slices": 26}),
        (ValueError, "boundaries must begin with node 0 and end with node 25", {"boundaries": [0, 10, 24]}),
        (ValueError, "boundaries must rise or fall strictly", {"boundaries": [0, 10, 10, 25]}),
        (ValueError, "coarse must be one of .* did you mean 'same'", {"coarse": "sane"}),
        (ValueError, "PNDMScheduler cannot be sampled in parallel in time", {"coarse": PNDMScheduler()}),
        (ValueError, "tolerance must be .* at least 0 .* but was -1.0: .* 0 to run to the end", {"tolerance": -1.0}),
        *(
            (ValueError, f"but was {x}: pass a fraction", {"tolerance": x})
            for x in (1, 5.0, float("inf"), float("nan"))
        ),
        *(
            (TypeError, "tolerance must be", {"tolerance": x})
            for x in (True, "0.01", 1e-2 + 0j, torch.tensor(True), None)
        ),
        (TypeError, "but was True", {"tolerance": True, "criterion": parareal.Iterations(2)}),
        (ValueError, "below 1.2e-07", {"tolerance": 1e-9}),
        (TypeError, "callback must be a function", {"callback": 3}),
        (TypeError, "guidance must be Guidance", {"guidance": 3.0}),
        (TypeError, "unexpected keyword argument 'tolerence'", {"tolerence": 1}),
        (ValueError, "max_batch must be a whole number", {"max_batch": 0}),
        (ValueError, "give max_batch, or the sizes as pad_batch", {"pad_batch": True}),
        (TypeError, "pad_batch must be True, False or batch sizes", {"pad_batch": "8"}),
        (ValueError, "is not the largest of", {"pad_batch": (1, 8), "max_batch": 4}),
        (TypeError, "generator must be", {"generator": 3}),
        (ValueError, "generator has 2 entries for 1 samples", {"generator": [torch.Generator(), torch.Generator()]}),
    ],
)
def test_errors_before_any_work(kind, message, change):
    def fail_if_called(x, t):
        raise AssertionError("work was done before the input was checked")

    arguments = {"latents": noise(1, 1, 4, 4), "solver": SCHEDULER, "num_inference_steps": 25} | change
    with pytest.raises(kind, match=message):
        sample(fail_if_called, **arguments)


@pytest.mark.parametrize(
    ("message", "free"),
    [
        ("name label, which the model_kwargs of sample do not", {"label": torch.tensor([3, 3])}),
        ("structure and shapes", {"labels": torch.tensor([3])}),
        ("a row for each of the 2 samples", {"shared": 9}),
        ("structure and shapes", {"labels": None}),
    ],
)
def test_guidance_that_does_not_fit_the_model_is_refused(message, free):
    kwargs = {"labels": torch.tensor([0, 1]), "shared": 1}
    with pytest.raises(ValueError, match=message):
        sample(
            lambda x, t, labels, shared: x,
            noise(2, 1, 4, 4),
            SCHEDULER,
            num_inference_steps=4,
            model_kwargs=kwargs,
            guidance=Guidance(2.0, free),
        )


def test_guidance_passes_shared_tensors_on_unchanged():
    calls = []

    def model(x, t, labels, table):
        calls.append((len(x), len(labels), tuple(table.shape)))
        return x * table[0, 0]

    kwargs = {"labels": torch.tensor([0, 1]), "table": torch.full((5, 3), 0.1)}
    free = Guidance(2.0, {"labels": torch.tensor([2, 2])})
    sample(model, noise(2, 1, 4, 4), SCHEDULER, num_inference_steps=4, model_kwargs=kwargs, guidance=free)
    assert all(rows == labels and shape == (5, 3) for rows, labels, shape in calls)


def test_a_model_must_return_a_tensor():
    with pytest.raises(parareal.PararealError, match="must return a tensor"):
        sample(lambda x, t: {"x": x}, noise(1, 1, 4, 4), SCHEDULER, num_inference_steps=4)
