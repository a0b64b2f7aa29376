"""Rows: roles and cuts (`roles`), checks before a run (`checks`), batches (`batching`), the loop (`loop`)."""
