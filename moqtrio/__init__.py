"""Media over QUIC for Trio."""
