"""A worker process: its main loop, lease heartbeat, slice runs, checkpoints and result assembly."""
