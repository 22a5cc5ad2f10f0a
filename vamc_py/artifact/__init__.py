"""The artifact folder: its manifest, and the checks that a folder holds what its manifest promises."""
