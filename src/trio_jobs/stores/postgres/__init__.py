"""The jobs of several servers in a PostgreSQL database."""
