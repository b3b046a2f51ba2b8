"""One thread: the tests' networks are tiny, and a spinning second thread slows a small machine down."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
