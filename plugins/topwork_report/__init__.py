"""Report plugin: the page of a run, and the pages beside it.

In the order in which a run meets them:

- `plugin`: the hooks; `stage` and `command`: the ways in.
- `run_files`: reads a run folder; `step_log`: the log of a training that goes on.
- `page`: makes the page; `page_data`: the data for its script.
- `summary`, `sections`: the headline, and the blocks of each stage.
- `charts`, `heads`, `attention_view`, `json_blocks`: single blocks.
- `pages`: runs that go on, several runs, repetitions, notebooks, rows before a training.
- `images`, `colours`, `formatting`: used by all of them.
"""
