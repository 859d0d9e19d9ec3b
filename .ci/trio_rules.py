"""The rules about Trio of flake8-async, in a third of its time.

By itself it reads each file as Python does, and again with a parser that keeps the blanks: far more
slowly, once for each of the few rules that need them. Here such rules share a tree, which is made
of the files that have their words.
"""

import ast
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

from flake8_async import Plugin, cst_parse_module_native
from flake8_async.base import Options
from flake8_async.runner import Flake8AsyncRunner, Flake8AsyncRunner_cst
from libcst import MetadataWrapper

# Beyond the house's list: 114 and 128 do not see through nursery.start(method), 127 wants another
# HTTP client in the tests, 900 an async generator in a wrapper. ruff has 100.
NOWHERE = "100 114 124 127 128 900 910 911 912"
# Tests misbehave on purpose; what ruff checks in them as well.
NOT_IN_TESTS = f"{NOWHERE} 101 102 103 104 105 109 110 111 112 113 115 116 119 126 913"
# Of all rules, and of those that are left in the tests.
WORDS = "async (def|for|with)|BaseException|Cancelled"
WORDS_IN_TESTS = r"^ +(except|finally)|Cancelled|\.exceptions|deadline="
# 101: a yield in a scope. 913: a loop without an end.
SCOPES, YIELD, LOOP = r"Scope|move_on|fail_a|nursery|Group|timeout", r"\byield\b", r"while (True|1)"


def main() -> int:
    """Print what the rules find; the status is 1 if it is anything."""
    product = ["src/*.py", "examples/*.py"]
    slow = (with_word(YIELD, product) & with_word(SCOPES, product)) | with_word(LOOP, product)
    tests = with_word(WORDS, ["tests/*.py"]) & with_word(WORDS_IN_TESTS, ["tests/*.py"])
    found = [
        *(
            each
            for file in with_word(WORDS, product)
            for each in errors(file, NOWHERE, file in slow)
        ),
        *(each for file in tests for each in errors(file, NOT_IN_TESTS)),
    ]
    sys.stdout.writelines(f"{error}\n" for error in sorted(found))
    return bool(found)


def with_word(words: str, files: list[str]) -> set[str]:
    """Those of the committed files that have one of the words."""
    command = ["git", "grep", "-lE", words, "--", *files]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
    return set(done.stdout.split())


def errors(file: str, but: str, with_blanks: bool = False) -> list[str]:
    """What the rules find in a file, but those that are named; without what a comment allows."""
    source = Path(file).read_text()
    options = options_but(but)
    found = list(Flake8AsyncRunner.run(ast.parse(source), options))
    if with_blanks:
        runner = Flake8AsyncRunner_cst(options, cst_parse_module_native(source))
        tree = MetadataWrapper(runner.module, unsafe_skip_copy=True)
        for visitor in (*runner.utility_visitors, *runner.visitors):
            tree.visit(visitor)
        found += runner.state.problems
    lines = source.splitlines()
    return [f"{file}:{e}" for e in found if e.code not in lines[e.line - 1].partition("# noqa:")[2]]


def options_but(but: str) -> Options:
    """All rules are on but those that are named; the comments are looked at above."""
    parser = ArgumentParser()
    Plugin.add_options(parser)
    disabled = ",".join(f"ASYNC{number}" for number in but.split())
    Plugin.parse_options(
        parser.parse_args(["--enable=ASYNC1,ASYNC9", f"--disable={disabled}", "--disable-noqa"])
    )
    return Plugin._options


if __name__ == "__main__":
    sys.exit(main())
