"""Settings of all tests.

Torch uses one thread: the networks are tiny, and on a small machine a second thread that spins slows the first down.
"""

import torch

torch.set_num_threads(1)
