"""Model folders on the Hub: what would be uploaded and the upload (`upload`), the `stage` and the `command`."""
