"""Run one experiment, or with -m a sweep: python train.py task=MRPC decomp=falcon_4d"""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from lobert import cli
from lobert.launch.ledger import Values


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> Values:
    return cli.job(cli.run_pipeline, cfg)


if __name__ == "__main__":
    sys.exit(cli.guard(main, Path(__file__).parent / "conf"))
