"""Families of ODEs drawn to fool a stop rule.

A family is a function of a generator of random numbers. It returns an `Equation`: a right-hand side `rhs(y, t)` for
rows y of shape (rows, d) and times of shape (rows,), the start, and the end time. Families that need to know where the
slices end (aliased forcing) also receive the number of slices.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

Array = np.ndarray


@dataclass(frozen=True)
class Equation:
    """An initial value problem from time 0."""

    rhs: Callable[[Array, Array], Array]
    """right-hand side, vectorized over rows"""
    start: Array
    """shape (d,)"""
    end: float
    """end time"""
    longest_step: float = float("inf")
    """step of F above which explicit methods leave the attractor"""


def _columns(*columns: Array) -> Array:
    return np.stack(np.broadcast_arrays(*columns), axis=1)


def resonant_forcing(draw: Generator, slices: int) -> Equation:
    """Return an undamped oscillator, forced at its own frequency."""
    w, end = draw.uniform(0.5, 4), draw.uniform(5, 40)
    start = draw.choice([0.0, 1.0]) * draw.normal(size=2)
    return Equation(lambda y, t: _columns(y[:, 1], -w * w * y[:, 0] + np.cos(w * t)), start, end)


def forcing_at_slice_frequency(draw: Generator, slices: int) -> Equation:
    """Return a decay whose forcing has a whole number of periods in every slice, or nearly so."""
    end, decay = draw.uniform(2, 20), draw.choice([0.0, draw.uniform(0, 1)])
    w = 2 * np.pi * draw.integers(1, 4) * slices / end * (1 + draw.choice([0.0, 1e-3]))
    return Equation(lambda y, t: -decay * y + np.cos(w * t)[:, None], np.full(1, draw.normal()), end)


def rotation_at_slice_frequency(draw: Generator, slices: int) -> Equation:
    """Return a rotation that turns a whole number of times per slice, slowly pushed outwards."""
    end = draw.uniform(1, 5)
    w, push = 2 * np.pi * draw.integers(1, 3) * slices / end, draw.uniform(-0.2, 0.2)
    return Equation(
        lambda y, t: _columns(push * y[:, 0] - w * y[:, 1], w * y[:, 0] + push * y[:, 1]), draw.normal(size=2), end
    )


def push_from_rest(draw: Generator, slices: int) -> Equation:
    """Return a damped oscillator at rest that is pushed within one slice, between the points where G looks."""
    end = 20.0
    w, damping, width = draw.uniform(1, 3), draw.uniform(0.05, 0.5), draw.uniform(0.2, 0.9) * end / slices
    first = end / slices * draw.integers(0, slices) + 0.02 * end / slices

    def rhs(y: Array, t: Array) -> Array:
        push = ((t > first) & (t < first + width)).astype(float)
        return _columns(y[:, 1], -w * w * y[:, 0] - damping * y[:, 1] + push)

    return Equation(rhs, np.zeros(2), end)


def pulses(draw: Generator, slices: int) -> Equation:
    """Return a slow decay with narrow pulses at drawn times."""
    end, decay = 10.0, draw.uniform(0, 1)
    times, width, height = draw.uniform(0, end, 3), draw.uniform(0.02, 0.3), draw.uniform(0.5, 5)

    def rhs(y: Array, t: Array) -> Array:
        pulse = sum(np.exp(-(((t - at) / width) ** 2)) for at in times)
        return -decay * y + height * np.asarray(pulse)[:, None]

    return Equation(rhs, np.full(1, draw.choice([0.0, 1.0])), end)


def relay(draw: Generator, slices: int) -> Equation:
    """Return an oscillator that a relay drives towards zero, with a weak forcing."""
    w, end = draw.uniform(0.5, 3), draw.uniform(5, 25)

    def rhs(y: Array, t: Array) -> Array:
        return _columns(y[:, 1], -np.sign(y[:, 0]) - 0.1 * y[:, 1] + 0.3 * np.sin(w * t))

    return Equation(rhs, draw.normal(size=2), end)


def sliding_relay(draw: Generator, slices: int) -> Equation:
    """Return a relay that slides along a moving target."""
    w, gain, end = draw.uniform(0.3, 2), draw.uniform(1, 3), draw.uniform(3, 15)
    return Equation(lambda y, t: -gain * np.sign(y - np.sin(w * t)[:, None]), draw.normal(size=1), end)


def square_wave(draw: Generator, slices: int) -> Equation:
    """Return an oscillator under a forcing that jumps."""
    w, period, end = draw.uniform(0.5, 3), draw.uniform(0.3, 5), draw.uniform(5, 25)

    def rhs(y: Array, t: Array) -> Array:
        return _columns(y[:, 1], -w * w * y[:, 0] - 0.1 * y[:, 1] + np.sign(np.sin(2 * np.pi * t / period)))

    return Equation(rhs, draw.normal(size=2), end)


def bistable(draw: Generator, slices: int) -> Equation:
    """Return a bistable equation that starts near its separatrix."""
    start, end = draw.choice([-1, 1]) * 10 ** draw.uniform(-8, -1), draw.uniform(5, 25)
    w, height = draw.uniform(0.5, 6), draw.choice([0.0, 10 ** draw.uniform(-6, 0)])
    return Equation(lambda y, t: y - y**3 + height * np.sin(w * t)[:, None], np.full(1, start), end)


def double_well(draw: Generator, slices: int) -> Equation:
    """Return a damped particle in two wells, with little energy to spare at the barrier."""
    damping, end = draw.uniform(0.02, 0.3), draw.uniform(5, 30)
    start = np.array([draw.uniform(1.3, 1.5), draw.normal() * 0.1])
    return Equation(lambda y, t: _columns(y[:, 1], y[:, 0] - y[:, 0] ** 3 - damping * y[:, 1]), start, end)


def pendulum(draw: Generator, slices: int) -> Equation:
    """Return a pendulum that starts almost upright."""
    start, end = np.array([np.pi - 10 ** draw.uniform(-6, -0.5), 0.0]), draw.uniform(5, 25)
    return Equation(lambda y, t: _columns(y[:, 1], -np.sin(y[:, 0])), start, end)


def kepler(draw: Generator, slices: int) -> Equation:
    """Return an orbit of eccentricity 0.2 to 0.9 from its far point."""
    e, end = draw.uniform(0.2, 0.9), draw.uniform(2, 13)
    start = np.array([1 + e, 0.0, 0.0, np.sqrt((1 - e) / (1 + e))])

    def rhs(y: Array, t: Array) -> Array:
        cube = (y[:, 0] ** 2 + y[:, 1] ** 2) ** 1.5
        return _columns(y[:, 2], y[:, 3], -y[:, 0] / cube, -y[:, 1] / cube)

    return Equation(rhs, start, end)


def lorenz(draw: Generator, slices: int) -> Equation:
    """Return the chaotic Lorenz system, up to a time of 30."""

    def rhs(y: Array, t: Array) -> Array:
        x, v, z = y.T
        return _columns(10 * (v - x), x * (28 - z) - v, x * v - 8 / 3 * z)

    return Equation(rhs, draw.normal(size=3) + np.array([1.0, 1.0, 20.0]), draw.uniform(0.5, 30), 0.02)


def roessler(draw: Generator, slices: int) -> Equation:
    """Return the chaotic Rössler system."""

    def rhs(y: Array, t: Array) -> Array:
        x, v, z = y.T
        return _columns(-v - z, x + 0.2 * v, 0.2 + z * (x - 5.7))

    return Equation(rhs, draw.normal(size=3) + np.array([0.0, -6.0, 0.0]), draw.uniform(5, 60), 0.1)


def duffing(draw: Generator, slices: int) -> Equation:
    """Return a forced Duffing oscillator, regular or chaotic."""
    height, end = draw.uniform(0.1, 8), draw.uniform(5, 40)

    def rhs(y: Array, t: Array) -> Array:
        return _columns(y[:, 1], y[:, 0] - y[:, 0] ** 3 - 0.2 * y[:, 1] + height * np.cos(t))

    return Equation(rhs, draw.normal(size=2), end)


def blow_up(draw: Generator, slices: int) -> Equation:
    """Return u' = u^2 or u' = u^3 up to just before it is infinite."""
    power, share = draw.choice([2, 3]), 1 - 10 ** draw.uniform(-3, -0.5)
    start = draw.uniform(0.5, 2)
    return Equation(lambda y, t: y**power, np.full(1, start), share / ((power - 1) * start ** (power - 1)))


def stiff_source(draw: Generator, slices: int) -> Equation:
    """Return fast decay towards a moving target: F is stable, and G may not be."""
    rate, end, w = 10 ** draw.uniform(1, 2.5), draw.uniform(1, 5), draw.uniform(0.5, 5)
    return Equation(lambda y, t: -rate * (y - np.cos(w * t)[:, None]), draw.normal(size=1), end)


def van_der_pol(draw: Generator, slices: int) -> Equation:
    """Return relaxation oscillations."""
    mu, end = draw.uniform(1, 8), draw.uniform(5, 30)
    return Equation(
        lambda y, t: _columns(y[:, 1], mu * (1 - y[:, 0] ** 2) * y[:, 1] - y[:, 0]),
        np.array([2.0, 0.0]) + 0.1 * draw.normal(size=2),
        end,
    )


def chain_from_rest(draw: Generator, slices: int) -> Equation:
    """Return a chain at rest, through which a signal at its first member travels."""
    rate, end, members = draw.uniform(0.5, 4), draw.uniform(5, 20), draw.integers(4, 16)

    def rhs(y: Array, t: Array) -> Array:
        left = np.concatenate([np.where(t > 1, np.sin(t) ** 2, 0.0)[:, None], y[:, :-1]], axis=1)
        return rate * (left - y)

    return Equation(rhs, np.zeros(members), end)


def scales(draw: Generator, slices: int) -> Equation:
    """Return two weakly coupled oscillators whose sizes differ by up to 20 orders of magnitude."""
    ratio, w, end = 10 ** draw.uniform(-10, 10), draw.uniform(0.5, 3, 2), draw.uniform(3, 15)
    unit = 10 ** draw.uniform(-10, 10)

    def rhs(y: Array, t: Array) -> Array:
        a, b, c, d = y.T
        return _columns(b, -(w[0] ** 2) * a + 1e-2 * c / ratio, d, -(w[1] ** 2) * c - 0.1 * ratio * a)

    return Equation(rhs, unit * np.array([1.0, 0.0, ratio, 0.0]), end)


def saddle(draw: Generator, slices: int) -> Equation:
    """Return a saddle whose growing component starts small and is fed late."""
    grow, end, at = draw.uniform(0.5, 2), draw.uniform(5, 15), draw.uniform(0.2, 0.8)

    def rhs(y: Array, t: Array) -> Array:
        fed = 1e-6 * np.exp(-((t - at * end) ** 2) * 20)
        return _columns(grow * y[:, 0] + fed, -y[:, 1] + 0.1 * np.sin(y[:, 0]))

    return Equation(rhs, np.array([draw.choice([0.0, 1e-8]), 1.0]), end)


def driven_qubit(draw: Generator, slices: int) -> Equation:
    """Return a two-level quantum system under a drive: complex states."""
    gap, height, end = draw.uniform(1, 10), draw.uniform(0.2, 3), draw.uniform(2, 15)
    w = gap * draw.choice([1.0, draw.uniform(0.5, 2)])

    def rhs(y: Array, t: Array) -> Array:
        drive = height * np.cos(w * t)
        return -1j * _columns(drive * y[:, 1], gap * y[:, 1] + drive * y[:, 0])

    return Equation(rhs, np.array([1.0 + 0j, 0.0]), end)


def brusselator(draw: Generator, slices: int) -> Equation:
    """Return an oscillating chemical reaction."""
    b, end = draw.uniform(1.5, 4), draw.uniform(5, 25)

    def rhs(y: Array, t: Array) -> Array:
        square = y[:, 0] ** 2 * y[:, 1]
        return _columns(1 + square - (b + 1) * y[:, 0], b * y[:, 0] - square)

    return Equation(rhs, draw.uniform(0.5, 3, 2), end)


def advection(draw: Generator, slices: int) -> Equation:
    """Return a pulse that travels around a ring of 32 points."""
    points, speed, end = 32, draw.uniform(0.5, 2), draw.uniform(0.5, 3)
    x = np.arange(points) / points

    def rhs(y: Array, t: Array) -> Array:
        return -speed * points / 2 * (np.roll(y, -1, axis=1) - np.roll(y, 1, axis=1))

    return Equation(rhs, np.exp(-100 * (x - 0.5) ** 2), end)


FAMILIES: list[Callable[[Generator, int], Equation]] = [
    resonant_forcing,
    forcing_at_slice_frequency,
    rotation_at_slice_frequency,
    push_from_rest,
    pulses,
    relay,
    sliding_relay,
    square_wave,
    bistable,
    double_well,
    pendulum,
    kepler,
    lorenz,
    roessler,
    duffing,
    blow_up,
    stiff_source,
    van_der_pol,
    chain_from_rest,
    scales,
    saddle,
    driven_qubit,
    brusselator,
    advection,
]
