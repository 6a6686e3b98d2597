"""The experiments of Sankar and Balasubramanian (2017), cell by cell: trained, counted, laid beside what they print."""
