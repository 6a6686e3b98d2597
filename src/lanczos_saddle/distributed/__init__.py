"""Several ranks under torch.distributed: samples, or probes, shared between processes; the counts of one process."""
