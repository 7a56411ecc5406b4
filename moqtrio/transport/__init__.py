"""What a session needs of a connection, and its bindings."""
