"""The stages of a run, each an artefact that is found by what it was made from, or made."""
