r"""The tables of the paper on SRDS, made with this package (Selvam, Merchant, Ermon 2024, arXiv 2412.08292).

    python examples/reproduce_srds.py                        # the shipped model; eight minutes of one core
    python examples/reproduce_srds.py --quick                # few steps, one sample: ten seconds
    python examples/reproduce_srds.py --model google/ddpm-church-256 --samples 1000 --real FOLDER
    python examples/reproduce_srds.py --model stabilityai/stable-diffusion-2-base --tables 2 3

SRDS is run as published (`srds()`): DDIM's own jumps, the root of N slices, its stop on the last change; vanilla waits
for every iteration (`schedule="synchronous"`), pipelined does not. Where the paper has N = 1024 there is 961, for a
scheduler with 1000 training steps cannot take 1024. Numbers of the paper stand beside ours where they are known.
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
from srds.runs import SRDS, Lab, Run, mean, median
from srds.subject import PROMPTS, subject
from tqdm.auto import tqdm

import parareal

QUICK = {25: 9, 100: 16, 196: 9, 961: 16}
THRESHOLDS = (1e-3, 1e-2, 1e-1)
DEVICES = (1, 2, 4, 8)
Row = dict[str, str]


@dataclass(frozen=True)
class Context:
    """What a table is made from."""

    lab: Lab
    real: Path | None
    quick: bool

    def steps(self, count: int) -> int:
        """Return a number of steps of the paper, or the one that stands for it."""
        return QUICK[count] if self.quick else count

    def pictures(self, runs: list[Run]) -> torch.Tensor:
        """Return the pictures of runs, uint8."""
        return torch.cat([self.lab.subject.pictures(run.state) for run in runs])


def evaluations(runs: list[Run]) -> Row:
    """Return the columns that count."""
    return {
        "iterations": f"{mean(runs, 'iterations'):.1f}" if mean(runs, "iterations") else "-",
        "effective serial evaluations": f"{mean(runs, 'span'):.0f}",
        "total evaluations": f"{mean(runs, 'work'):.0f}",
        "worst error": f"{max(run.error for run in runs):.1e}",
    }


def table_1(context: Context) -> list[Row]:
    """Give pixel models: evaluations and FID with the most steps."""
    steps, rows = context.steps(961), []
    for method in ("sequential", *SRDS):
        runs = context.lab.runs(method, steps)
        law = paper.laws(steps, round(mean(runs, "iterations"))).get(method, "-")
        fid = scores.fid(context.pictures(runs), context.real)
        name = context.lab.subject.name
        rows.append({"model": name, "N": str(steps), "method": method, **evaluations(runs)})
        rows[-1] |= {"Algorithm 1 in as many iterations: serial, total": str(law), "FID": fid, "paper's FID": "-"}
    for name, cell in paper.PIXEL_FID.items():
        blank = dict.fromkeys(rows[0], "-")
        rows.append(blank | {"model": f"{name} (paper)", "N": "1024", "method": "SRDS", "paper's FID": str(cell)})
    return rows


def table_2(context: Context) -> list[Row]:
    """Give Stable Diffusion: the CLIP score."""
    rows, prompts = [], context.lab.subject.prompts
    for steps in dict.fromkeys(context.steps(n) for n in (25, 100)):
        for method in ("sequential", *SRDS) if prompts else ("SRDS, vanilla",):
            runs = context.lab.runs(method, steps)
            score = scores.clip(context.pictures(runs), prompts)
            rows.append({"N": str(steps), "method": method, **evaluations(runs), "CLIP score": score})
            rows[-1]["paper's"] = str(paper.CLIP) if method == "SRDS, vanilla" else "-"
    return rows


def table_3(context: Context) -> list[Row]:
    """Give the wall-clock of a sample."""
    rows = []
    for count in {context.steps(n): n for n in (25, 100, 961)}.values():
        steps = context.steps(count)
        plain = median(context.lab.runs("sequential", steps), "seconds")
        for method in SRDS:
            runs = context.lab.runs(method, steps)
            took = median(runs, "seconds")
            known = f"{paper.SPEED_UP[count]}" + (f", {paper.BEST_TIME[count]}" if count in paper.BEST_TIME else "")
            rows.append({"N": str(steps), "method": method, "sequential": f"{plain:.2f} s", "SRDS": f"{took:.2f} s"})
            rows[-1] |= {"ratio": f"{plain / took:.2f}", "paper's (4 A100)": known if "pipe" in method else "-"}
    return rows


def table_4(context: Context) -> list[Row]:
    """Give ParaDiGMS at three thresholds."""
    rows = []
    for steps in dict.fromkeys(context.steps(n) for n in (961, 196, 25)):
        rows += against(context, "ParaDiGMS", steps, THRESHOLDS)
    rows[0]["paper's"] = str(paper.PARADIGMS)
    return rows


def parataa(context: Context) -> list[Row]:
    """Give ParaTAA with 100 and 25 steps of DDIM."""
    rows = []
    for count in (100, 25):
        made = against(context, "ParaTAA", context.steps(count), (1e-3,))
        made[0]["paper's"] = f"best SRDS speed-up {paper.PARATAA[count]}" if count in paper.PARATAA else "-"
        rows += made
    return rows


def against(context: Context, peer: str, steps: int, thresholds: tuple[float, ...]) -> list[Row]:
    """Give SRDS and another method."""

    def row(method: str, threshold: str, runs: list[Run]) -> Row:
        took = f"{median(runs, 'seconds'):.2f} s"
        return {"N": str(steps), "method": method, "threshold": threshold, **evaluations(runs), "time": took,
                "paper's": "-"}  # fmt: skip

    rows = [row("SRDS, pipelined", "its own", context.lab.runs("SRDS, pipelined", steps))]
    for threshold in thresholds:
        try:
            rows.append(row(peer, f"{threshold:g}", context.lab.runs(peer, steps, threshold=threshold)))
        except ImportError as error:
            rows.append(dict.fromkeys(rows[0], "-") | {"N": str(steps), "method": f"{peer}: error, {error}"})
            break
    return rows


def solvers(context: Context) -> list[Row]:
    """Give SRDS on other solvers."""
    rows = []
    for solver, count in (("DDPM", 196), ("DPM-Solver", 25), ("DDIM", 25)):
        steps = context.steps(count)
        plain = median(context.lab.runs("sequential", steps, solver), "seconds")
        for method in SRDS:
            runs = context.lab.runs(method, steps, solver)
            rows.append({"solver": solver, "N": str(steps), "method": method, **evaluations(runs)})
            rows[-1] |= {"ratio of wall times": f"{plain / median(runs, 'seconds'):.2f}", "paper's": "-"}
    return rows


def devices(context: Context) -> list[Row]:
    """Give speed-ups over devices, simulated with what batches cost here."""
    one = context.lab.subject.sample(0)
    context.lab.progress("timing batches")

    def repeated(x: torch.Tensor, rows: int) -> torch.Tensor:
        return x.expand(rows, *x.shape[1:])

    def call(rows: int) -> None:
        kwargs = {name: repeated(x, rows) for name, x in one.model_kwargs.items()}
        with torch.no_grad():
            one.model(repeated(one.latents, rows), torch.zeros(rows, dtype=torch.int64), **kwargs)

    curve = parareal.BatchTime.measured(call, seconds=0.3 if context.quick else 3.0)
    rows = []
    for steps in dict.fromkeys(context.steps(n) for n in (25, 100, 961)):
        for method, options in SRDS.items():
            made = max(1, round(mean(context.lab.runs(method, steps), "iterations")))
            row = {"N": str(steps), "method": method, "iterations": str(made)}
            for count in DEVICES:
                found = parareal.simulate(
                    steps,
                    round(steps**0.5),
                    made,
                    devices=count,
                    batch_time=curve,
                    message_time=0.1 * curve(1) if count > 1 else 0.0,
                    schedule=options.get("schedule", "pipelined"),
                )
                row[f"{count} device{'s' * (count > 1)}"] = f"{found.speedup:.2f}"
            rows.append(row | {"paper's": "-"})
    return rows


TABLES: dict[str, tuple[str, Callable[[Context], list[Row]]]] = {
    "1": ("Table 1. Pixel models: evaluations and FID", table_1),
    "2": ("Table 2. Stable Diffusion: CLIP score", table_2),
    "3": ("Table 3. Wall-clock of a sample, medians", table_3),
    "4": ("Table 4. Against ParaDiGMS, a window of 100 steps", table_4),
    "solvers": ("Appendix: other solvers", solvers),
    "devices": ("Appendix: devices, simulated, not measured: speed-up, messages of a tenth of an evaluation", devices),
    "parataa": ("Appendix: against ParaTAA, a window of 100 steps, order 20, memory 2", parataa),
}


def main(arguments: list[str] | None = None) -> int:
    """Make the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fashion-mnist", help="the shipped model, a folder, or a hub id")
    parser.add_argument("--samples", type=int, help="by default 2, with --quick 1")
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--prompts", type=Path, help="a file with a prompt a line, as captions of COCO-2017")
    parser.add_argument("--real", type=Path, help="folder of real pictures, for the FID")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--quick", action="store_true", help=f"other numbers of steps: {QUICK}")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/results/reproduce.md")
    given = parser.parse_args(arguments)
    samples = given.samples or (1 if given.quick else 2)
    if samples < 1:
        parser.error(f"--samples must be at least 1, got {samples}")
    if given.real is not None and not given.real.is_dir():
        parser.error(f"--real must name a folder of pictures, but {given.real} is none")
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    prompts = PROMPTS if given.prompts is None else given.prompts.read_text().splitlines()
    try:
        what = subject(given.model, samples, given.seed, prompts)
    except (OSError, ValueError) as error:
        print(f"{given.model} cannot be had: {error}", file=sys.stderr)
        return 2
    parts: list[str] = []
    with tqdm(unit="run") as bar:

        def progress(about: str) -> None:
            bar.set_description(about)
            bar.update()

        context = Context(Lab(what, progress), given.real, given.quick)
        for name in given.tables:
            title, make = TABLES[name]
            parts.append(f"**{title}**\n\n{markdown(make(context))}")
            bar.write(f"\n{parts[-1]}")
    about = (
        f"{given.model}, {samples} sample(s) a row, drawn one by one{', --quick' if given.quick else ''}. "
        f"{paper.LEGEND} Evaluations are no speed-ups. Machine: {platform.machine()}, {torch.get_num_threads()} "
        f"thread(s), torch {torch.__version__}."
    )
    print(f"\n{about}")
    if given.write:
        write("\n\n".join([*parts, about]))
    return 0


def write(text: str) -> None:
    """Put the tables into the page."""
    from benchmarks.tools.pages import DOCS, put

    put(DOCS / "results/reproduce.md", "tables", text)


if __name__ == "__main__":
    sys.exit(main())
