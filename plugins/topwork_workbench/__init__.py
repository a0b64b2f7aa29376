"""Workbench around runs: trackers that observe trainings, sweeps, LoRA, exported models, a service, model cards."""
