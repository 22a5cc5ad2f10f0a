"""The engines that can be compared, one file each."""
