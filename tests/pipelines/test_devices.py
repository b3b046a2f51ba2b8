"""Several devices: copies of the network share the rows of a call, and follow changes of the network."""

import copy
import itertools
import threading

import cases
import diffusers
import numpy as np
import pytest
import tiny
import torch
from cases import TWO
from parareal_diffusers import parallelize
from parareal_diffusers._pipelines.stand_ins.replicas import WeightCopies, sum_dtype
from torch.utils._python_dispatch import TorchDispatchMode

EXACT = 1e-5
BOTH = ["cpu", "cpu"]


def sample_images(pipe, call=TWO, **more):
    pipe.set_progress_bar_config(disable=True)
    return pipe(**call, **{"generator": tiny.new_generator(), "output_type": "np", **more}).images


class RecordingUNet(diffusers.UNet2DConditionModel):
    """A UNet that records the thread, the number of rows and the gradient mode of its calls; copies share the list."""

    calls: list = []  # noqa: RUF012
    fails = False

    def forward(self, sample, timestep, encoder_hidden_states, **kwargs):
        RecordingUNet.calls.append((threading.get_ident(), len(sample), torch.is_grad_enabled()))
        if RecordingUNet.fails and len(RecordingUNet.calls) > 4:
            raise MemoryError("too much")
        return super().forward(sample, timestep, encoder_hidden_states, **kwargs)


@pytest.fixture
def recording_pipe():
    RecordingUNet.calls, RecordingUNet.fails = [], False
    pipe = tiny.sd()
    pipe.unet.__class__ = RecordingUNet
    return pipe


@pytest.mark.parametrize("more", [{}, {"max_batch": 3}, {"pad_batch": (4, 8)}, {"levels": (3, 2)}])
def test_the_image_is_that_of_one_device(more):
    pipe = tiny.sd()
    expected = sample_images(pipe)
    with parallelize(pipe, tolerance=0.0, **more):
        one = sample_images(pipe)
    with parallelize(pipe, tolerance=0.0, devices=BOTH, **more):
        assert abs(sample_images(pipe) - one).max() <= EXACT
        assert abs(sample_images(pipe) - expected).max() <= EXACT
    assert np.array_equal(sample_images(pipe), expected)


def test_every_device_has_a_thread_and_its_share(recording_pipe):
    with parallelize(recording_pipe, devices=[*BOTH, "cpu"]) as handle:
        sample_images(recording_pipe)
    threads = {thread for thread, _, _ in RecordingUNet.calls}
    assert len(threads) == 3
    assert threading.get_ident() not in threads
    assert not any(gradients for _, _, gradients in RecordingUNet.calls)
    rows = [sum(n for thread, n, _ in RecordingUNet.calls if thread == each) for each in threads]
    assert sum(rows) >= 2 * handle.solution.stats.work  # guidance doubles
    assert max(rows) <= 1.5 * min(rows)
    assert not {thread.ident for thread in threading.enumerate()} & threads


def test_max_batch_applies_per_device(recording_pipe):
    with parallelize(recording_pipe, devices=BOTH, max_batch=2):
        sample_images(recording_pipe)
    assert max(rows for _, rows, _ in RecordingUNet.calls) == 4  # guidance doubles


def test_after_an_error_on_a_device_the_pipeline_is_as_it_was(recording_pipe):
    expected = sample_images(recording_pipe)
    RecordingUNet.calls, RecordingUNet.fails = [], True
    with pytest.raises(MemoryError, match="too much"), parallelize(recording_pipe, devices=BOTH):
        sample_images(recording_pipe)
    RecordingUNet.fails = False
    threads = {thread for thread, _, _ in RecordingUNet.calls}
    assert not {thread.ident for thread in threading.enumerate()} & threads
    assert type(recording_pipe) is diffusers.StableDiffusionPipeline
    assert np.array_equal(sample_images(recording_pipe), expected)


def test_copies_follow_what_is_done_to_the_network_between_calls():
    from peft import LoraConfig

    pipe, unmodified = copy.deepcopy(tiny.sd()), diffusers.StableDiffusionPipeline.__call__
    changes = [
        lambda: None,
        lambda: pipe.unet.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_v"])),
        lambda: pipe.unet.set_adapters(["default"], [0.3]),
        lambda: pipe.unet.fuse_lora(),
        lambda: pipe.unet.conv_out.weight.data.mul_(1.1),
        lambda: setattr(pipe, "unet", tiny.unet()),
    ]
    images = []
    with parallelize(pipe, tolerance=0.0, devices=BOTH):
        for change in changes:
            change()
            expected = unmodified(pipe, **TWO, generator=tiny.new_generator(), output_type="np").images
            assert abs(sample_images(pipe) - expected).max() <= EXACT
            images.append(expected)
    assert min(abs(after - before).max() for before, after in itertools.pairwise(images[:3])) > 1e-4


def test_weights_elsewhere_are_copied_again_where_they_changed():
    weights, elsewhere = WeightCopies(), torch.device("meta")
    net = torch.nn.ModuleList([torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3)])

    def copies():
        tensors = [*net.parameters(), *net.buffers()]
        weights.keep_only(tensors)
        return weights.on([elsewhere], tensors)[0]

    first = copies()
    assert all(x.device == elsewhere for x in first)
    assert all(a is b for a, b in zip(first, copies(), strict=True))
    with torch.no_grad():
        net[0].weight.add_(1)  # gives the tensor a new version
    second = copies()
    net[0].bias.data.mul_(2)  # does not
    third = copies()
    net[1].num_batches_tracked += 1
    fourth = copies()
    net[0].weight = torch.nn.Parameter(net[0].weight.detach().clone())
    fifth = copies()
    steps = zip([first, second, third, fourth], [second, third, fourth, fifth], strict=True)
    assert [[a is not b for a, b in zip(*step, strict=True)].index(True) for step in steps] == [0, 1, 6, 0]
    assert len(weights._copies) == len(first)
    parameters = list(net.parameters())
    assert all(a is b for a, b in zip(parameters, weights.on([torch.device("cpu")], parameters)[0], strict=True))


class NormCounter(TorchDispatchMode):
    """A counter of the norms that torch computes."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += "vector_norm" in str(func)
        return func(*args, **(kwargs or {}))


def test_weights_are_read_once_for_all_devices():
    parameters, elsewhere = list(torch.nn.Linear(3, 3).parameters()), torch.device("meta")
    with NormCounter() as norms:
        WeightCopies().on([elsewhere, torch.device("cpu"), elsewhere], parameters)
    assert norms.count == len(parameters)


def test_weights_are_summed_in_single_precision_where_there_is_no_double():
    assert [sum_dtype(torch.device(name)) for name in ("cpu", "cuda", "mps")] == [
        torch.float64,
        torch.float64,
        torch.float32,
    ]


@pytest.mark.parametrize(
    ("devices", "error", "match"),
    [
        (["meta", "cpu"], ValueError, "'meta' holds no numbers"),
        (["nonsense"], ValueError, "'nonsense' cannot be used on this machine"),
        (["cpu", "cuda:63"], ValueError, "'cuda:63' cannot be used on this machine"),
        ("cpu", TypeError, "sequence of devices"),
        (2, TypeError, "sequence of devices"),
        ([], TypeError, "sequence of devices"),
    ],
)
def test_invalid_devices_are_refused_at_once(devices, error, match):
    pipe = tiny.sd()
    with pytest.raises(error, match=match):
        parallelize(pipe, devices=devices)
    assert type(pipe) is diffusers.StableDiffusionPipeline


def offload(pipe):
    accelerate = pytest.importorskip("accelerate")
    pipe.unet, _ = accelerate.cpu_offload_with_hook(pipe.unet, torch.device("cpu"))


def spread_over_devices(pipe):
    pipe.unet.conv_out.to("meta")


REFUSED = [
    (offload, "unet has hooks, such as those of offloading"),
    (lambda pipe: pipe.unet.register_forward_hook(lambda *_: None), "unet has hooks"),
    (lambda pipe: pipe.unet.enable_layerwise_casting(torch.float16, torch.float32), "unet has hooks"),
    (lambda pipe: pipe.unet.compile(backend="eager"), "unet is compiled"),
    (lambda pipe: setattr(pipe, "unet", torch.compile(pipe.unet, backend="eager")), "unet is compiled"),
    (lambda pipe: setattr(pipe.unet, "hf_quantizer", object()), "unet is quantised"),
    (spread_over_devices, "unet is spread over cpu, meta"),
    (lambda pipe: setattr(pipe.unet, "lock", threading.Lock()), "cannot be copied"),
]


@pytest.mark.parametrize(("change", "match"), REFUSED)
def test_networks_that_cannot_be_copied_are_refused_before_any_work(change, match):
    pipe = tiny.sd()
    change(pipe)
    pipe.text_encoder = torch.nn.Module()  # fails if it is called
    with parallelize(pipe, devices=BOTH), pytest.raises(ValueError, match=match):
        sample_images(pipe)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("tf32", "bound"), [(False, 1e-4), (True, 2e-3)])  # half a step of 8-bit images
@pytest.mark.parametrize("devices", [["cuda:0", "cuda:0"], ["cuda:0", "cpu"], ["cpu", "cuda:0"]])
@pytest.mark.parametrize("home", ["cpu", "cuda:0"])
def test_on_an_accelerator(home, devices, tf32, bound, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
    pipe = copy.deepcopy(cases.with_controlnet(diffusers.StableDiffusionControlNetPipeline)()).to(home)
    call = {**TWO, **cases.CONTROL}
    expected = sample_images(pipe, call)
    with parallelize(pipe, tolerance=0.0, devices=devices):
        assert abs(sample_images(pipe, call) - expected).max() <= bound  # devices round differently
        pipe.unet.conv_out.weight.data.mul_(1.1)
        actual = sample_images(pipe, call)
    expected = sample_images(pipe, call)
    assert abs(actual - expected).max() <= bound
