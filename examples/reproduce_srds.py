r"""Tables of the paper on SRDS, reproduced with this package (Selvam, Merchant, Ermon 2024, arXiv 2412.08292).

    python examples/reproduce_srds.py                        # the shipped model; eight minutes on one core
    python examples/reproduce_srds.py --quick                # few steps, one sample: ten seconds
    python examples/reproduce_srds.py --model google/ddpm-church-256 --samples 1000 --real FOLDER
    python examples/reproduce_srds.py --model stabilityai/stable-diffusion-2-base --tables 2 3

SRDS is run as published (`srds()`): DDIM jumps, sqrt(N) slices, and its stop rule on the last change. The vanilla
variant waits for every iteration (`schedule="synchronous"`), the pipelined one does not. Where the paper has N = 1024
the tables have 961, because a scheduler with 1000 training steps has no 1024 timesteps. Prints the tables, with the
numbers of the paper where they are known. `--write` also puts them into docs/results/reproduce.md.
"""

import argparse
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from parareal_diffusers._commands.report import markdown
from srds import paper, scores
from srds.runs import SRDS, RunCache, SampleRun, mean, median
from srds.subject import PROMPTS, load_subject
from tqdm.auto import tqdm

import parareal

QUICK = {25: 9, 100: 16, 196: 9, 961: 16}
"""numbers of steps with `--quick`, by that of the paper"""
THRESHOLDS = (1e-3, 1e-2, 1e-1)
DEVICES = (1, 2, 4, 8)
Row = dict[str, str]


@dataclass(frozen=True)
class TableInputs:
    """Inputs of the tables: the runs, and the options that change a table."""

    cache: RunCache
    real: Path | None
    """folder of real images, for the FID"""
    quick: bool

    def steps(self, count: int) -> int:
        """Return the number of steps for one of the paper; with `--quick` a smaller one."""
        return QUICK[count] if self.quick else count

    def decode_images(self, runs: list[SampleRun]) -> torch.Tensor:
        """Return the images of runs, uint8 of shape (runs, 3, height, width)."""
        return torch.cat([self.cache.subject.decode_images(run.state) for run in runs])


def format_evaluations(runs: list[SampleRun]) -> Row:
    """Return the columns of iterations, evaluations and errors."""
    return {
        "iterations": f"{mean(runs, 'iterations'):.1f}" if mean(runs, "iterations") else "-",
        "effective serial evaluations": f"{mean(runs, 'span'):.0f}",
        "total evaluations": f"{mean(runs, 'work'):.0f}",
        "worst error": f"{max(run.error for run in runs):.1e}",
    }


def make_table_1(inputs: TableInputs) -> list[Row]:
    """Return table 1: evaluations and FID of pixel models, with the largest number of steps."""
    steps, rows = inputs.steps(961), []
    for method in ("sequential", *SRDS):
        runs = inputs.cache.runs(method, steps)
        expected = paper.count_evaluations(steps, round(mean(runs, "iterations"))).get(method, "-")
        fid = scores.compute_fid(inputs.decode_images(runs), inputs.real)
        name = inputs.cache.subject.name
        rows.append({"model": name, "N": str(steps), "method": method, **format_evaluations(runs)})
        rows[-1] |= {"Algorithm 1 with equal iterations: serial, total": str(expected), "FID": fid, "paper's FID": "-"}
    for name, value in paper.PIXEL_FID.items():
        blank = dict.fromkeys(rows[0], "-")
        rows.append(blank | {"model": f"{name} (paper)", "N": "1024", "method": "SRDS", "paper's FID": str(value)})
    return rows


def make_table_2(inputs: TableInputs) -> list[Row]:
    """Return table 2: the CLIP score of Stable Diffusion."""
    rows, prompts = [], inputs.cache.subject.prompts
    for steps in dict.fromkeys(inputs.steps(n) for n in (25, 100)):
        for method in ("sequential", *SRDS) if prompts else ("SRDS, vanilla",):
            runs = inputs.cache.runs(method, steps)
            score = scores.compute_clip_score(inputs.decode_images(runs), prompts)
            rows.append({"N": str(steps), "method": method, **format_evaluations(runs), "CLIP score": score})
            rows[-1]["paper"] = str(paper.CLIP) if method == "SRDS, vanilla" else "-"
    return rows


def make_table_3(inputs: TableInputs) -> list[Row]:
    """Return table 3: the wall time per sample."""
    rows = []
    for count in {inputs.steps(n): n for n in (25, 100, 961)}.values():
        steps = inputs.steps(count)
        plain = median(inputs.cache.runs("sequential", steps), "seconds")
        for method in SRDS:
            runs = inputs.cache.runs(method, steps)
            seconds = median(runs, "seconds")
            published = f"{paper.SPEED_UP[count]}" + (f", {paper.BEST_TIME[count]}" if count in paper.BEST_TIME else "")
            rows.append({"N": str(steps), "method": method, "sequential": f"{plain:.2f} s", "SRDS": f"{seconds:.2f} s"})
            rows[-1] |= {"speed-up": f"{plain / seconds:.2f}", "paper (4 A100)": published if "pipe" in method else "-"}
    return rows


def make_table_4(inputs: TableInputs) -> list[Row]:
    """Return table 4: ParaDiGMS with three thresholds."""
    rows = []
    for steps in dict.fromkeys(inputs.steps(n) for n in (961, 196, 25)):
        rows += compare_with(inputs, "ParaDiGMS", steps, THRESHOLDS)
    rows[0]["paper"] = str(paper.PARADIGMS)
    return rows


def make_table_of_parataa(inputs: TableInputs) -> list[Row]:
    """Return the table of the appendix on ParaTAA, with 100 and 25 steps of DDIM."""
    rows = []
    for count in (100, 25):
        comparison = compare_with(inputs, "ParaTAA", inputs.steps(count), (1e-3,))
        comparison[0]["paper"] = f"best SRDS speed-up {paper.PARATAA[count]}" if count in paper.PARATAA else "-"
        rows += comparison
    return rows


def compare_with(inputs: TableInputs, peer: str, steps: int, thresholds: tuple[float, ...]) -> list[Row]:
    """Return one row for SRDS, and one row per threshold for another method."""

    def format_row(method: str, threshold: str, runs: list[SampleRun]) -> Row:
        seconds = f"{median(runs, 'seconds'):.2f} s"
        return {"N": str(steps), "method": method, "threshold": threshold, **format_evaluations(runs), "time": seconds,
                "paper": "-"}  # fmt: skip

    rows = [format_row("SRDS, pipelined", "published", inputs.cache.runs("SRDS, pipelined", steps))]
    for threshold in thresholds:
        try:
            rows.append(format_row(peer, f"{threshold:g}", inputs.cache.runs(peer, steps, threshold=threshold)))
        except ImportError as error:
            rows.append(dict.fromkeys(rows[0], "-") | {"N": str(steps), "method": f"{peer}: error, {error}"})
            break
    return rows


def make_table_of_solvers(inputs: TableInputs) -> list[Row]:
    """Return the table of the appendix on other solvers."""
    rows = []
    for solver, count in (("DDPM", 196), ("DPM-Solver", 25), ("DDIM", 25)):
        steps = inputs.steps(count)
        plain = median(inputs.cache.runs("sequential", steps, solver), "seconds")
        for method in SRDS:
            runs = inputs.cache.runs(method, steps, solver)
            rows.append({"solver": solver, "N": str(steps), "method": method, **format_evaluations(runs)})
            rows[-1] |= {"speed-up": f"{plain / median(runs, 'seconds'):.2f}", "paper": "-"}
    return rows


def make_table_of_devices(inputs: TableInputs) -> list[Row]:
    """Return speed-ups by number of devices, simulated with the batch times that are measured on this machine."""
    single = inputs.cache.subject.select_sample(0)
    inputs.cache.progress("timing batches")

    def repeat(x: torch.Tensor, rows: int) -> torch.Tensor:
        return x.expand(rows, *x.shape[1:])

    def call(rows: int) -> None:
        kwargs = {name: repeat(x, rows) for name, x in single.model_kwargs.items()}
        with torch.no_grad():
            single.model(repeat(single.latents, rows), torch.zeros(rows, dtype=torch.int64), **kwargs)

    curve = parareal.BatchTime.measure(call, seconds=0.3 if inputs.quick else 3.0)
    rows = []
    for steps in dict.fromkeys(inputs.steps(n) for n in (25, 100, 961)):
        for method, options in SRDS.items():
            iterations = max(1, round(mean(inputs.cache.runs(method, steps), "iterations")))
            row = {"N": str(steps), "method": method, "iterations": str(iterations)}
            for count in DEVICES:
                simulation = parareal.simulate(
                    steps,
                    round(steps**0.5),
                    iterations,
                    devices=count,
                    batch_time=curve,
                    message_time=0.1 * curve(1) if count > 1 else 0.0,
                    schedule=options.get("schedule", "pipelined"),
                )
                row[f"{count} device{'s' * (count > 1)}"] = f"{simulation.speedup:.2f}"
            rows.append(row | {"paper": "-"})
    return rows


TABLES: dict[str, tuple[str, Callable[[TableInputs], list[Row]]]] = {
    "1": ("Table 1. Pixel models: evaluations and FID", make_table_1),
    "2": ("Table 2. Stable Diffusion: CLIP score", make_table_2),
    "3": ("Table 3. Wall time per sample, medians", make_table_3),
    "4": ("Table 4. Comparison with ParaDiGMS, window of 100 steps", make_table_4),
    "solvers": ("Appendix: other solvers", make_table_of_solvers),
    "devices": (
        "Appendix: speed-up by number of devices, simulated, with messages of a tenth of an evaluation",
        make_table_of_devices,
    ),
    "parataa": ("Appendix: comparison with ParaTAA, window of 100 steps, order 20, memory 2", make_table_of_parataa),
}


def main(arguments: list[str] | None = None) -> int:
    """Make the tables and print them; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fashion-mnist", help="the shipped model, a folder, or a hub id")
    parser.add_argument("--samples", type=int, help="samples per row; by default 2, with --quick 1")
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES), help="tables to make")
    parser.add_argument("--prompts", type=Path, help="file with one prompt per line, such as captions of COCO-2017")
    parser.add_argument("--real", type=Path, help="folder of real images, for the FID")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise")
    parser.add_argument("--threads", type=int, default=None, help="threads of torch")
    parser.add_argument("--quick", action="store_true", help=f"one sample, and fewer steps: {QUICK}")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/results/reproduce.md")
    options = parser.parse_args(arguments)
    samples = options.samples or (1 if options.quick else 2)
    if samples < 1:
        parser.error(f"--samples must be at least 1, but was {samples}")
    if options.real is not None and not options.real.is_dir():
        parser.error(f"--real must be a folder of images, but {options.real} is not one")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    prompts = PROMPTS if options.prompts is None else options.prompts.read_text().splitlines()
    try:
        subject = load_subject(options.model, samples, options.seed, prompts)
    except (OSError, ValueError) as error:
        print(f"--model {options.model} is not available: {error}", file=sys.stderr)
        return 2
    parts: list[str] = []
    with tqdm(unit="run") as bar:

        def progress(description: str) -> None:
            bar.set_description(description)
            bar.update()

        inputs = TableInputs(RunCache(subject, progress), options.real, options.quick)
        for name in options.tables:
            title, make = TABLES[name]
            parts.append(f"**{title}**\n\n{markdown(make(inputs))}")
            bar.write(f"\n{parts[-1]}")
    note = (
        f"{options.model}, {samples} sample(s) per row, drawn one by one{', --quick' if options.quick else ''}. "
        f"{paper.LEGEND} Evaluations are not speed-ups. Machine: {platform.machine()}, {torch.get_num_threads()} "
        f"thread(s), torch {torch.__version__}."
    )
    print(f"\n{note}")
    if options.write:
        write("\n\n".join([*parts, note]))
    return 0


def write(text: str) -> None:
    """Write the tables into the documentation."""
    from benchmarks.tools.pages import DOCS, put

    put(DOCS / "results/reproduce.md", "tables", text)


if __name__ == "__main__":
    sys.exit(main())
