"""Fine-tuning: the converted network learns from the original."""
