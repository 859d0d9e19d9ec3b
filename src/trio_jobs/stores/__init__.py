"""Where jobs are kept: implementations of the port in `trio_jobs.pool.store`."""
