"""`topwork serve`: bodies become rows (`inputs`, `parameters`), rows of many requests one batch (`batcher`), `app`."""
