"""What a pass is, what it works on, which passes run, and the build of what they leave."""
