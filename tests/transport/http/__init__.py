"""HTTP/1.1 and WebSockets over loopback TCP."""
