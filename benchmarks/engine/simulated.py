"""Simulated speed-up on several devices. The script itself uses one.

    python benchmarks/engine/simulated.py [--out docs/images/simulated.png]

The script simulates N = 25 to 1000 steps on 1 to 64 devices, with two iterations. Batch times are those that
benchmarks/diffusion/batch_cost.py printed for the shipped network on two threads, and a message takes a tenth of an
evaluation. The speed-ups are printed and plotted.
"""

import argparse
from pathlib import Path

from matplotlib.figure import Figure

import parareal

BATCH_TIME = {1: 1.0, 2: 1.13, 4: 1.6, 7: 2.3, 12: 3.4, 24: 6.7, 48: 14.0}
STEPS = (25, 50, 100, 196, 400, 1000)
DEVICES = (1, 2, 4, 8, 16, 32, 64)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images/simulated.png"))
    args = parser.parse_args()
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    print("steps | " + " | ".join(f"{p} devices" for p in DEVICES))
    for steps in STEPS:
        slices = round((2 * steps) ** 0.5)
        runs = [
            parareal.simulate(steps, slices, 2, devices=p, batch_time=BATCH_TIME, message_time=0.1 if p > 1 else 0.0)
            for p in DEVICES
        ]
        speedups = [run.speedup for run in runs]
        print(f"{steps} | " + " | ".join(f"{x:.2f}" for x in speedups), flush=True)
        axes.plot(DEVICES, speedups, marker="o", label=f"N = {steps}, {slices} slices")
    axes.axhline(1, color="gray", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(DEVICES, [str(p) for p in DEVICES])
    axes.set_xlabel("devices")
    axes.set_ylabel("speed-up over the sequential solve, simulated")
    axes.set_title("Simulated: two iterations, messages of 0.1 evaluations", fontsize=10)
    axes.legend(fontsize=8)
    figure.savefig(args.out, dpi=110)
