"""Sessions: moq-lite spoken over a connection, on behalf of an origin and an application."""
