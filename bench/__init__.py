"""How fast trio-jobs is, beside what it is built on and beside its peers: ``python -m bench``.

Everything runs on this machine: loopback only, children stopped by their process id, load bounded
in count and in time. Only ratios of one run are worth comparing; see ``docs/performance.md``.
"""
