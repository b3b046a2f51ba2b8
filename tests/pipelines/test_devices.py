"""devices=: the rows of a call are shared among copies of the network, which follow it."""

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


def pictures(pipe, call=TWO, **more):
    pipe.set_progress_bar_config(disable=True)
    return pipe(**call, **{"generator": tiny.seeded(), "output_type": "np", **more}).images


class Noting(diffusers.UNet2DConditionModel):
    """Notes who calls it, with how many rows; all copies into one list."""

    calls: list = []  # noqa: RUF012
    fails = False

    def forward(self, sample, timestep, encoder_hidden_states, **kwargs):
        Noting.calls.append((threading.get_ident(), len(sample), torch.is_grad_enabled()))
        if Noting.fails and len(Noting.calls) > 4:
            raise MemoryError("too much")
        return super().forward(sample, timestep, encoder_hidden_states, **kwargs)


@pytest.fixture
def noted():
    Noting.calls, Noting.fails = [], False
    pipe = tiny.sd()
    pipe.unet.__class__ = Noting
    return pipe


@pytest.mark.parametrize("more", [{}, {"max_batch": 3}, {"pad_batch": (4, 8)}, {"levels": (3, 2)}])
def test_the_picture_is_that_of_one_device(more):
    pipe = tiny.sd()
    expected = pictures(pipe)
    with parallelize(pipe, tolerance=0.0, **more):
        one = pictures(pipe)
    with parallelize(pipe, tolerance=0.0, devices=BOTH, **more):
        assert abs(pictures(pipe) - one).max() <= EXACT
        assert abs(pictures(pipe) - expected).max() <= EXACT
    assert np.array_equal(pictures(pipe), expected)


def test_every_device_has_a_thread_and_its_share(noted):
    with parallelize(noted, devices=[*BOTH, "cpu"]) as handle:
        pictures(noted)
    threads = {thread for thread, _, _ in Noting.calls}
    assert len(threads) == 3
    assert threading.get_ident() not in threads
    assert not any(gradients for _, _, gradients in Noting.calls)
    rows = [sum(n for thread, n, _ in Noting.calls if thread == each) for each in threads]
    assert sum(rows) >= 2 * handle.solution.stats.work  # guidance doubles
    assert max(rows) <= 1.5 * min(rows)
    assert not {thread.ident for thread in threading.enumerate()} & threads


def test_max_batch_is_for_each_device(noted):
    with parallelize(noted, devices=BOTH, max_batch=2):
        pictures(noted)
    assert max(rows for _, rows, _ in Noting.calls) == 4  # guidance doubles


def test_after_an_error_on_a_device_the_pipeline_is_as_it_was(noted):
    expected = pictures(noted)
    Noting.calls, Noting.fails = [], True
    with pytest.raises(MemoryError, match="too much"), parallelize(noted, devices=BOTH):
        pictures(noted)
    Noting.fails = False
    threads = {thread for thread, _, _ in Noting.calls}
    assert not {thread.ident for thread in threading.enumerate()} & threads
    assert type(noted) is diffusers.StableDiffusionPipeline
    assert np.array_equal(pictures(noted), expected)


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
    seen = []
    with parallelize(pipe, tolerance=0.0, devices=BOTH):
        for change in changes:
            change()
            expected = unmodified(pipe, **TWO, generator=tiny.seeded(), output_type="np").images
            assert abs(pictures(pipe) - expected).max() <= EXACT
            seen.append(expected)
    assert min(abs(after - before).max() for before, after in itertools.pairwise(seen[:3])) > 1e-4


def test_weights_elsewhere_are_copied_again_where_they_changed():
    weights, elsewhere = WeightCopies(), torch.device("meta")
    net = torch.nn.ModuleList([torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3)])

    def copies():
        own = [*net.parameters(), *net.buffers()]
        weights.keep_only(own)
        return weights.on([elsewhere], own)[0]

    first = copies()
    assert all(x.device == elsewhere for x in first)
    assert all(a is b for a, b in zip(first, copies(), strict=True))
    with torch.no_grad():
        net[0].weight.add_(1)  # has a new version
    second = copies()
    net[0].bias.data.mul_(2)  # has not
    third = copies()
    net[1].num_batches_tracked += 1
    fourth = copies()
    net[0].weight = torch.nn.Parameter(net[0].weight.detach().clone())
    fifth = copies()
    steps = zip([first, second, third, fourth], [second, third, fourth, fifth], strict=True)
    assert [[a is not b for a, b in zip(*step, strict=True)].index(True) for step in steps] == [0, 1, 6, 0]
    assert len(weights._copies) == len(first)
    own = list(net.parameters())
    assert all(a is b for a, b in zip(own, weights.on([torch.device("cpu")], own)[0], strict=True))


class Norms(TorchDispatchMode):
    """Counts the norms that are taken."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += "vector_norm" in str(func)
        return func(*args, **(kwargs or {}))


def test_weights_are_read_once_for_all_devices():
    own, elsewhere = list(torch.nn.Linear(3, 3).parameters()), torch.device("meta")
    with Norms() as norms:
        WeightCopies().on([elsewhere, torch.device("cpu"), elsewhere], own)
    assert norms.count == len(own)


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
def test_what_is_no_device_is_refused_at_once(devices, error, match):
    pipe = tiny.sd()
    with pytest.raises(error, match=match):
        parallelize(pipe, devices=devices)
    assert type(pipe) is diffusers.StableDiffusionPipeline


def offloaded(pipe):
    accelerate = pytest.importorskip("accelerate")
    pipe.unet, _ = accelerate.cpu_offload_with_hook(pipe.unet, torch.device("cpu"))


def spread(pipe):
    pipe.unet.conv_out.to("meta")


REFUSED = [
    (offloaded, "unet has hooks, such as those of offloading"),
    (lambda pipe: pipe.unet.register_forward_hook(lambda *_: None), "unet has hooks"),
    (lambda pipe: pipe.unet.enable_layerwise_casting(torch.float16, torch.float32), "unet has hooks"),
    (lambda pipe: pipe.unet.compile(backend="eager"), "unet is compiled"),
    (lambda pipe: setattr(pipe, "unet", torch.compile(pipe.unet, backend="eager")), "unet is compiled"),
    (lambda pipe: setattr(pipe.unet, "hf_quantizer", object()), "unet is quantised"),
    (spread, "unet is spread over cpu, meta"),
    (lambda pipe: setattr(pipe.unet, "lock", threading.Lock()), "cannot be copied"),
]


@pytest.mark.parametrize(("change", "match"), REFUSED)
def test_networks_that_cannot_be_copied_are_refused_before_any_work(change, match):
    pipe = tiny.sd()
    change(pipe)
    pipe.text_encoder = torch.nn.Module()  # would fail
    with parallelize(pipe, devices=BOTH), pytest.raises(ValueError, match=match):
        pictures(pipe)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("tf32", "bound"), [(False, 1e-4), (True, 2e-3)])  # half of what eight bits tell apart
@pytest.mark.parametrize("devices", [["cuda:0", "cuda:0"], ["cuda:0", "cpu"], ["cpu", "cuda:0"]])
@pytest.mark.parametrize("home", ["cpu", "cuda:0"])
def test_on_an_accelerator(home, devices, tf32, bound, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
    pipe = copy.deepcopy(cases.controlled(diffusers.StableDiffusionControlNetPipeline)()).to(home)
    call = {**TWO, **cases.CONTROL}
    expected = pictures(pipe, call)
    with parallelize(pipe, tolerance=0.0, devices=devices):
        assert abs(pictures(pipe, call) - expected).max() <= bound  # devices round differently
        pipe.unet.conv_out.weight.data.mul_(1.1)
        found = pictures(pipe, call)
    expected = pictures(pipe, call)
    assert abs(found - expected).max() <= bound
