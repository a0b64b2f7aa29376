"""Model folders on the Hub.

- `upload`: the plan of an upload, and the upload.
- `stage`, `command`: the ways in.
"""
