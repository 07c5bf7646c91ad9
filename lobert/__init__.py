"""LoBERT: low-rank and tensor-factorized BERT encoders, brought back to their teacher by distillation."""
