"""The store in one SQLite file: the schema, the writer, the readers, the start of a server."""
