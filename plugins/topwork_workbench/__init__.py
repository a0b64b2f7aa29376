"""Workbench around runs: trackers that observe trainings, repetitions and sweeps, exported models, model cards."""
