"""Stand-ins for the two things that a pipeline's loop calls: its scheduler and its network.

The loop runs unchanged. `scheduler.py` replaces the scheduler, so that the loop makes one pass per evaluation of the
engine and `step` returns the next rows. `network.py` wraps the denoiser and ControlNets, so that the network sees the
conditioning of those rows (`batch.py`), on one device or on several (`replicas.py`). `scales.py` replaces weights that
a pipeline looks up by the number of the pass. All of them talk to the `LoopBridge` of the call through protocols, so
that nothing here imports the rest of `_pipelines`.
"""
