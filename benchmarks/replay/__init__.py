"""What replay promises, measured: ``python -m benchmarks --replay``.

A server, a subscriber that follows live and subscribers that join late are processes of their
own, the server on one core and the others on another. What is moved is
:mod:`benchmarks.firehose`, so that whoever receives a group knows what should be in it.
"""
