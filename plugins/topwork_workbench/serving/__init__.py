"""`topwork serve`: a model behind HTTP.

- `command`: starts it; `app`: the routes; `page`: a page to try the model by hand.
- `inputs`, `parameters`: bodies become rows, and options that hold for them.
- `batcher`: rows of many requests become one batch; `limits`: sizes and times; `connections`: how many, how slow.
"""
