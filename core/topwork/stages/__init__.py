"""The core's own stages, one file each; each file is a plugin of its own, like anybody else's."""
