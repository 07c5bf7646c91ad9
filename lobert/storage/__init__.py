"""What lies on disk: files written whole, artefacts found by what they were made from, and whole."""
