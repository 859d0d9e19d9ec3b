"""``python -m bench.peers install``: make the peers' virtual environments, once."""

import sys

from bench.peers.environments import install

if sys.argv[1:] != ["install"]:
    sys.exit("usage: python -m bench.peers install")
sys.exit(0 if install() else 1)
