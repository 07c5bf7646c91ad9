"""Run one experiment, or with -m a sweep: python train.py task=MRPC decomp=falcon_4d"""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from lobert import cli


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float | None:
    from lobert.pipeline import run  # late: a typo on the command line is answered before torch is loaded

    return cli.job(run, cfg)


if __name__ == "__main__":
    sys.exit(cli.guard(main, Path(__file__).parent / "conf"))
