"""Stores results, makes the keys that they are found by, and chooses the device."""
