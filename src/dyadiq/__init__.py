"""Dyadiq: a trained PyTorch network and a budget in, one exact integer program out."""
