"""One thread: the tests' networks are tiny, and a spinning second thread slows a small machine down."""

import torch

torch.set_num_threads(1)
