"""Readers of published weights that are not in the format of diffusers."""
