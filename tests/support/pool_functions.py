"""Propagators for pools of processes, which must be able to import them."""

import os
import threading
import time

import numpy as np

import parareal


def decay(u, t0, t1, steps=20):
    h = (t1 - t0) / steps
    for i in range(steps):
        u = u + h * (np.sin(3 * (t0 + i * h)) - u)
    return u


def jump(u, t0, t1):
    return decay(u, t0, t1, steps=1)


def slow_decay(u, t0, t1):
    time.sleep(0.02)
    return decay(u, t0, t1)


def decay_with_cost(u, t0, t1):
    return parareal.Costed(decay(u, t0, t1), 20 if t0 < 1 else 30)


def return_lock(u, t0, t1):
    return threading.Lock()


def fail_after_one(u, t0, t1):
    if t0 > 1:
        raise ZeroDivisionError("beyond one")
    return decay(u, t0, t1)


def exit_after_one(u, t0, t1):
    if t0 > 1:
        os._exit(1)
    return decay(u, t0, t1)
