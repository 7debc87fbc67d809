"""What is measured beside the pipeline: mediation, disentanglement, dictionaries."""
