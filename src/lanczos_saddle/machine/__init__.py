"""What the computer gives: memory, threads, files, rates, random streams; and how far work is. No mathematics."""
