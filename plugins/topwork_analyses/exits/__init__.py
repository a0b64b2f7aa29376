"""Early exits: what the trained task head says of the hidden states of every layer (logit lens), on any task."""
