"""Work on rows that any number of processes share, shard by shard, through a folder that all of them see.

In the order in which a command meets them: `sources` (rows, and those of a shard), `description` (what a folder is for,
with which everybody who joins must agree), `claims` (who is at work on which shard), `parts` (finished shards, each
whole and hashed), `worker` (the loop that takes shards until none is left), `predicting` and `measuring` (the work on a
shard, and the joining of all), `metric_states` (metrics as JSON), `sharing`
(any other work, of plugins). `stores` and `stored_parts` are the same for a folder that is given by address.
"""
