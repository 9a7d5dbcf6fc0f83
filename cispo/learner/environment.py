"""Variables that a learner's process must start with."""

from cispo.config import LearnerConfig

_ALWAYS = {
    # A row of a matrix product then does not depend on how many rows there are, as in the engines.
    "MKL_CBWR": "AUTO,STRICT",
    "TOKENIZERS_PARALLELISM": "false",
}

LEAN = {
    "MALLOC_MMAP_THRESHOLD_": str(2**20),
    "THP_MEM_ALLOC_ENABLE": "1",
}
"""Each tensor of a megabyte or more gives its memory back when it is freed, in large pages.

glibc otherwise keeps up to 32 MiB a tensor for later, in pieces that the next tensor does not fit:
on a CPU a step with recomputed layers then peaks at twice the memory that its tensors take.
Clearing new memory costs up to a third more time.
"""


def learner_environment(learner: LearnerConfig, *, is_lean: bool) -> dict[str, str]:
    """Variables of one rank.

    Args:
        learner: Its CPUs and GPUs.
        is_lean: Whether memory counts for more than time.
    """
    threads = str(max(1, int(learner.num_cpus)))
    accelerator = {} if learner.num_gpus else {"DS_ACCELERATOR": "cpu"}
    return {**_ALWAYS, **(LEAN if is_lean else {}), **accelerator, "OMP_NUM_THREADS": threads}
