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
    "nonlinear": """@inproceedings{gander2008nonlinear,
  author    = {Gander, Martin J. and Hairer, Ernst},
  title     = {Nonlinear Convergence Analysis for the Parareal Algorithm},
  booktitle = {Domain Decomposition Methods in Science and Engineering {XVII}},
  series    = {Lecture Notes in Computational Science and Engineering}, volume = {60},
  publisher = {Springer}, year = {2008},
  doi       = {10.1007/978-3-540-75199-1_4}
}""",
    "waves": """@article{ruprecht2018wave,
  author  = {Ruprecht, Daniel},
  title   = {Wave propagation characteristics of {Parareal}},
  journal = {Computing and Visualization in Science},
  volume  = {19}, pages = {1--17}, year = {2018},
  doi     = {10.1007/s00791-018-0296-z}
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
    "parataa": """@inproceedings{tang2024accelerating,
  author    = {Tang, Zhiwei and Tang, Jiasheng and Luo, Hao and Wang, Fan and Chang, Tsung-Hui},
  title     = {Accelerating Parallel Sampling of Diffusion Models},
  booktitle = {International Conference on Machine Learning},
  year      = {2024}, eprint = {2402.09970}, archivePrefix = {arXiv}
}""",
    "chords": """@inproceedings{han2025chords,
  author    = {Han, Jiaqi and Ye, Haotian and Li, Puheng and Xu, Minkai and Zou, James and Ermon, Stefano},
  title     = {{CHORDS}: Diffusion Sampling Accelerator with Multi-core Hierarchical {ODE} Solvers},
  booktitle = {International Conference on Computer Vision},
  year      = {2025}, eprint = {2507.15260}, archivePrefix = {arXiv}
}""",
    "parasolver": """@inproceedings{lu2025parasolver,
  author    = {Lu, Jianrong and Zhu, Zhiyu and Hou, Junhui},
  title     = {{ParaSolver}: A Hierarchical Parallel Integral Solver for Diffusion Models},
  booktitle = {International Conference on Learning Representations},
  year      = {2025}
}""",
    "plms": """@inproceedings{liu2022pseudo,
  author    = {Liu, Luping and Ren, Yi and Lin, Zhijie and Zhao, Zhou},
  title     = {Pseudo Numerical Methods for Diffusion Models on Manifolds},
  booktitle = {International Conference on Learning Representations},
  year      = {2022}, eprint = {2202.09778}, archivePrefix = {arXiv}
}""",
    "flow": """@inproceedings{liu2023flow,
  author    = {Liu, Xingchao and Gong, Chengyue and Liu, Qiang},
  title     = {Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow},
  booktitle = {International Conference on Learning Representations},
  year      = {2023}, eprint = {2209.03003}, archivePrefix = {arXiv}
}""",
    "torchdiffeq": """@misc{chen2018torchdiffeq,
  author = {Chen, Ricky T. Q.},
  title  = {torchdiffeq},
  year   = {2018}, url = {https://github.com/rtqichen/torchdiffeq}
}""",
}


def citation(*topics: str) -> str:
    """Return BibTeX entries, all of them by default: what was run is not known here, so name the topics that you used.

    Args:
        topics: any of
            `"parareal"` (the method), `"analysis"` and `"nonlinear"` (its convergence), `"waves"` (where it fails),
            `"pipelined"` (its schedule); `"diffusion"` (SRDS), `"picard"` (ParaDiGMS), `"parataa"`, `"chords"`,
            `"parasolver"` (other parallel samplers); `"ddim"`, `"ddpm"`, `"dpm"` (DPM-Solver), `"dpmpp"`
            (DPM-Solver++, the default coarse solver), `"plms"`, `"flow"` (rectified flow), `"torchdiffeq"`.

    Raises:
        ValueError: for an unknown topic.
    """
    from parareal._checks import one_of

    for topic in topics:
        one_of("topic", topic, _ENTRIES)
    chosen: Any = topics or _ENTRIES
    return "\n\n".join(_ENTRIES[topic] for topic in chosen)
