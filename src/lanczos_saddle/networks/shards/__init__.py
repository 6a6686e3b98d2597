"""A network whose parameters are cut over ranks: layers get theirs whole while they work, and let them go again."""
