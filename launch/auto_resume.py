"""`resume=auto`: the same command, given again and again, goes on where its run's folder ends."""

from pathlib import Path

from cispo.checkpoint import complete_checkpoints
from cispo.config import RunConfig

AUTO = "auto"


def settle_resume(cfg: RunConfig) -> None:
    """Replace `resume=auto` in a configuration by what it means now.

    With a checkpoint in `run_dir` the run goes on from there. Without one it starts from its
    beginning, and replaces what an attempt has left there that did not come so far.
    """
    if cfg.resume != AUTO:
        return
    folder = Path(cfg.run_dir)
    cfg.resume = cfg.run_dir if complete_checkpoints(folder / "checkpoints") else None
    if cfg.resume is None and (folder / "config.yaml").is_file():  # a run's, and nothing else
        cfg.overwrite = True
