"""Drills: what goes wrong on other people's machines, done on purpose.

`make drill` runs them (`run`). Each is a function of a `Scene`, a clone of the repository with a
finished build, and yields rows of the table that the book shows.
"""
