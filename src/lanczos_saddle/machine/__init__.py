"""What the computer gives: memory, threads, whole files, rates, independent random streams. No mathematics."""
