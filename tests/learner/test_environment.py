from cispo.config import LearnerConfig
from cispo.learner.environment import LEAN, learner_environment


def test_only_a_lean_learner_gives_memory_back_at_once():
    fast = learner_environment(LearnerConfig(num_cpus=2.0), is_lean=False)
    lean = learner_environment(LearnerConfig(num_cpus=2.0), is_lean=True)
    assert lean == fast | LEAN
    assert not LEAN.keys() & fast.keys()


def test_ranks_use_their_cpus_and_no_accelerator_that_they_were_not_given():
    assert learner_environment(LearnerConfig(num_cpus=2.0), is_lean=False) == {
        "MKL_CBWR": "AUTO,STRICT",
        "TOKENIZERS_PARALLELISM": "false",
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "2",
    }
    assert "DS_ACCELERATOR" not in learner_environment(LearnerConfig(num_gpus=1.0), is_lean=False)
