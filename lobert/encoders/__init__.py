"""Encoders: from a name or folder to a classifier, and where its weights are."""
