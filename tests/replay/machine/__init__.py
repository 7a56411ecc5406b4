"""The state machine over the whole replay engine, and the bugs it must find."""
