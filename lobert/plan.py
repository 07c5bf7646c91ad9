"""`python -m lobert.plan task=MRPC decomp=falcon_4d`: what `train.py stage=plan` shows, without naming the stage."""

import sys

import hydra
from omegaconf import DictConfig

from lobert import cli
from lobert.errors import LobertError
from lobert.launch.ledger import Values
from lobert.paths import conf_dir


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
def main(cfg: DictConfig) -> Values:
    return cli.job(cli.run_pipeline, cfg)


def plan() -> None:
    """Run Hydra with the stage added to the command line."""
    for argument in sys.argv[1:]:
        if argument.startswith("stage="):
            raise LobertError(f"python -m lobert.plan is stage=plan already: leave out {argument}, or type train.py")
    sys.argv.append("stage=plan")
    main()


if __name__ == "__main__":
    sys.exit(cli.guard(plan, conf_dir()))
