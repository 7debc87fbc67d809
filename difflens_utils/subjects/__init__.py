"""Diffusion models under study: how a pipeline is opened, and what it is conditioned on."""
