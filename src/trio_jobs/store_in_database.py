"""The store in a database that several servers share."""
