"""What the commands of ``leap-rl`` do; one file each."""
