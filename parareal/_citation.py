"""What to cite."""

from typing import Any

_ENTRIES = {
    "parareal": """@article{lions2001parareal,
  author  = {Lions, Jacques-Louis and Maday, Yvon and Turinici, Gabriel},
  title   = {R{\\'e}solution d'{EDP} par un sch{\\'e}ma en temps {\\guillemotleft}parar{\\'e}el{\\guillemotright}},
  journal = {Comptes Rendus de l'Acad{\\'e}mie des Sciences, S{\\'e}rie I, Math{\\'e}matique},
  volume  = {332}, number = {7}, pages = {661--668}, year = {2001},
  doi     = {10.1016/S0764-4442(00)01793-6}
}""",
    "analysis": """@article{gander2007analysis,
  author  = {Gander, Martin J. and Vandewalle, Stefan},
  title   = {Analysis of the Parareal Time-Parallel Time-Integration Method},
  journal = {SIAM Journal on Scientific Computing},
  volume  = {29}, number = {2}, pages = {556--578}, year = {2007},
  doi     = {10.1137/05064607X}
}""",
    "pipelined": """@article{aubanel2011scheduling,
  author  = {Aubanel, Eric},
  title   = {Scheduling of tasks in the parareal algorithm},
  journal = {Parallel Computing},
  volume  = {37}, number = {3}, pages = {172--182}, year = {2011},
  doi     = {10.1016/j.parco.2010.10.004}
}""",
    "diffusion": """@inproceedings{selvam2024selfrefining,
  author    = {Selvam, Nikil Roashan and Merchant, Amil and Ermon, Stefano},
  title     = {Self-Refining Diffusion Samplers: Enabling Parallelization via Parareal Iterations},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2024}, eprint = {2412.08292}, archivePrefix = {arXiv}
}""",
    "ddim": """@inproceedings{song2021denoising,
  author    = {Song, Jiaming and Meng, Chenlin and Ermon, Stefano},
  title     = {Denoising Diffusion Implicit Models},
  booktitle = {International Conference on Learning Representations},
  year      = {2021}, eprint = {2010.02502}, archivePrefix = {arXiv}
}""",
    "ddpm": """@inproceedings{ho2020denoising,
  author    = {Ho, Jonathan and Jain, Ajay and Abbeel, Pieter},
  title     = {Denoising Diffusion Probabilistic Models},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2020}, eprint = {2006.11239}, archivePrefix = {arXiv}
}""",
    "dpm": """@inproceedings{lu2022dpmsolver,
  author    = {Lu, Cheng and Zhou, Yuhao and Bao, Fan and Chen, Jianfei and Li, Chongxuan and Zhu, Jun},
  title     = {{DPM-Solver}: A Fast {ODE} Solver for Diffusion Probabilistic Model Sampling in Around 10 Steps},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2022}, eprint = {2206.00927}, archivePrefix = {arXiv}
}""",
    "dpmpp": """@article{lu2022dpmsolverpp,
  author = {Lu, Cheng and Zhou, Yuhao and Bao, Fan and Chen, Jianfei and Li, Chongxuan and Zhu, Jun},
  title  = {{DPM-Solver++}: Fast Solver for Guided Sampling of Diffusion Probabilistic Models},
  year   = {2022}, eprint = {2211.01095}, archivePrefix = {arXiv}
}""",
    "picard": """@inproceedings{shih2023parallel,
  author    = {Shih, Andy and Belkhale, Suneel and Ermon, Stefano and Sadigh, Dorsa and Anari, Nima},
  title     = {Parallel Sampling of Diffusion Models},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2023}, eprint = {2305.16317}, archivePrefix = {arXiv}
}""",
}


def citation(*topics: str) -> str:
    """Return BibTeX entries for what a result rests on.

    Args:
        topics: any of `"parareal"` (the method), `"analysis"` (its convergence), `"pipelined"` (its schedule),
            `"diffusion"` (SRDS), `"ddim"`, `"ddpm"`, `"dpm"` (DPM-Solver), `"dpmpp"` (DPM-Solver++, the default coarse
            solver) and `"picard"` (ParaDiGMS); all of them by default.

    Raises:
        ValueError: for an unknown topic.
    """
    from parareal._checks import one_of

    for topic in topics:
        one_of("topic", topic, _ENTRIES)
    chosen: Any = topics or _ENTRIES
    return "\n\n".join(_ENTRIES[topic] for topic in chosen)
