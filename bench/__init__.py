"""How fast trio-jobs is beside its foundations and beside other queues: ``python -m bench``.

The benchmark uses loopback only, bounds each load in count and in time, and stops its children by
process id. Only ratios within one run are worth comparing: see ``docs/performance.md``.
"""
