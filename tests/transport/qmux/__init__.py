"""qmux without and with what carries it."""
