"""Shared code of tasks with labels.

- `labels`: names of labels, and what a value of a row means among them (all tasks with numbered classes)
- `targets`: targets of rows that have one label, several, or a number
- `options`: types of options that tasks share
- `loss`: class weights and the loss
- `scores`: predictions, and pictures of them
- `metric`: accuracy, F1, correlations
- `calibration`: how far confidences are from shares of right predictions
- `thresholds`: which scores count as predicted where rows may have several labels
- `view`: doubts about labels before training
- `classifier`: the base class of text-, image- and audio-classification
"""
