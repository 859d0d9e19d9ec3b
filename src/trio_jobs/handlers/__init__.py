"""The handlers by job type, and the executor that runs them. A child imports a part of it."""
