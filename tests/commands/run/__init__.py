"""`trio-jobs run`, part by part; `tests/system/test_run.py` has the whole command."""
