"""Fine-tuning and distillation: the modules, one Lightning fit, and stopping exactly between two steps."""
