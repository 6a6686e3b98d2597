"""What a recognized network proves before anything is counted."""
