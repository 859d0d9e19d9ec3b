"""The whole program, cut off or broken at every sixtieth step: a sample of `tests.proof`."""

import pytest

from tests.proof.program import Action, Program
from tests.proof.test_every_step import ACTIONS, at_every_step

SAMPLED = list(enumerate([*ACTIONS, Program.fail_in_the_task]))


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(("n", "action"), SAMPLED, ids=[each.__name__ for _, each in SAMPLED])
def test_whatever_step_it_happens_at_every_job_is_accounted_for(n: int, action: Action) -> None:
    at_every_step(action, seed=0, first=1 + n, every=60)
