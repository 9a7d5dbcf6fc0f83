"""One scoring of a file, from its configuration to the summary."""

import asyncio
from dataclasses import replace
from pathlib import Path

from cispo.config.score import ScoreConfig
from cispo.errors import ConfigError
from cispo.tracking.console import open_console
from rewards.build import build_verifier, known_verifiers, named_verifiers
from rewards.offline import Case, Tally, read_cases, score_cases
from rewards.own_function import is_own

PHASE = "score"


def run_scoring(cfg: ScoreConfig) -> None:
    """Score `input`, append to `output`, and print what it came to.

    Raises:
        CispoError: The configuration or a line of the input is refused.
    """
    if not is_own(cfg.verifier) and cfg.verifier not in known_verifiers():
        known = ", ".join(sorted(known_verifiers()))
        raise ConfigError(
            f"verifier={cfg.verifier}: there is no such verifier; choose {known}, or "
            "FILE.py:FUNCTION for one of your own"
        )
    (name,) = named_verifiers([cfg.verifier])
    cases = read_cases(Path(cfg.input))
    output = Path(cfg.output)
    if not output.parent.is_dir():
        raise ConfigError(f"output={output}: the folder {output.parent} does not exist")
    if cfg.overwrite:
        output.unlink(missing_ok=True)
    tally = asyncio.run(_score(cfg, cases, output, name=name))
    for line in tally.lines():
        print(line)


async def _score(cfg: ScoreConfig, cases: list[Case], output: Path, *, name: str) -> Tally:
    verifier = build_verifier(
        replace(cfg.reward, verifiers=[cfg.verifier]),
        cfg.sandbox,
        max_new_tokens=cfg.max_new_tokens,
    )
    try:
        await verifier.start()
        with open_console(name="score", iterations=len(cases)) as console:
            console.progress.start(PHASE, len(cases))
            tally = await score_cases(
                verifier,
                cases,
                output,
                name=name,
                max_concurrent=_concurrency(cfg),
                advance=lambda count: console.progress.advance(PHASE, count),
            )
            console.progress.finish(PHASE)
        return tally
    finally:
        await verifier.close()


def _concurrency(cfg: ScoreConfig) -> int:
    """Return how many cases are under way: no more than are graded, so that none has to wait.

    The seconds of a verdict are then those of its own grading.
    """
    match cfg.verifier:
        case "math" | "logic":
            return 1
        case own if is_own(own):
            return 1
        case "code" | "swe":
            return min(
                cfg.max_concurrent, cfg.sandbox.max_concurrent * max(1, len(cfg.sandbox.hosts))
            )
    return cfg.max_concurrent
