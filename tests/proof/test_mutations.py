"""The list of wrong versions fits the sources: running it takes minutes, this does not."""

from collections import Counter

import pytest

from tests.proof.mutations import MUTATIONS, ROOT, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.what)
def test_mutation_changes_a_line_that_is_there(mutation: Mutation) -> None:
    source = (ROOT / "src" / "trio_jobs" / mutation.file).read_text()

    assert mutation.old in source
    compile(source.replace(mutation.old, mutation.new, 1), mutation.file, "exec")


def test_mutations_are_told_apart() -> None:
    assert max(Counter(mutation.what for mutation in MUTATIONS).values()) == 1
