"""Differential tests: fastnn beside the frameworks whose networks it reads.

`make test-interop` installs what they need (the extra fastnn[interop]) and runs a sample,
`make test-interop-full` all. Not part of the ordinary suite, which needs no framework.
"""
