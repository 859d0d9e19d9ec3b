"""flake8-async, in half of its time: its rules share a tree, and what is known of it.

By itself it makes a tree for each rule, and finds out anew where everything is in it: a rule may
change the file that it looks at. That is asked of none here.
"""

import sys

import libcst
from flake8_async import main
from flake8_async.base import Error
from flake8_async.runner import Flake8AsyncRunner_cst
from flake8_async.visitors.visitor_utility import NoqaHandler


def run(self: Flake8AsyncRunner_cst) -> list[Error]:
    """Let the rules of this kind visit one tree, and find the comments that turn a rule off."""
    tree = libcst.MetadataWrapper(self.module, unsafe_skip_copy=True)
    for visitor in (*self.utility_visitors, *self.visitors):
        if self.visitors or isinstance(visitor, NoqaHandler):  # the others help the rules
            tree.visit(visitor)
    self.noqas = self.state.noqas
    problems: list[Error] = self.state.problems
    return problems


if __name__ == "__main__":
    Flake8AsyncRunner_cst.run = run
    sys.exit(main())
