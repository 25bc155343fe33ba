"""File containers: arrays by name out of HDF5, npy and npz files."""
