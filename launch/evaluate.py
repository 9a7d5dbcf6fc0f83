"""python -m launch.evaluate: what a policy can do, on named sets of problems, with intervals."""

import os

from cispo.config.evaluate import EvaluateConfig
from launch.command import run_command


def body(cfg: EvaluateConfig, composed: str) -> None:
    """Check, then evaluate or compare; what is heavy is imported only after the checks."""
    from launch.preflight import check_policy_path

    # Read at torch's import: a row of a product then does not depend on how many there are.
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
    if not cfg.compare and cfg.engine in ("local", "ray") and cfg.rollout.backend != "scripted":
        cfg.policy.path = check_policy_path(cfg.policy)

    from launch.evaluating import run_comparison, run_evaluation

    (run_comparison if cfg.compare else run_evaluation)(cfg)


def main() -> None:
    """Compose the configuration and evaluate."""
    run_command("evaluate", EvaluateConfig, body)


if __name__ == "__main__":
    main()
