"""GPUs of a machine: which are visible, which process gets which, what NVIDIA's management library tells of them."""
