"""Faster kernels for CPUs: oneDNN products (`onednn`) and bf16 for frozen models (`bf16`)."""
