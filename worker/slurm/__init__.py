"""Workers as batch jobs of SLURM: the commands of SLURM, and the process that keeps as many jobs as there is work."""
