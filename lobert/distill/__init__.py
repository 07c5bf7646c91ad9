"""Distillation: the losses, and the teacher outputs they compare the student with."""
