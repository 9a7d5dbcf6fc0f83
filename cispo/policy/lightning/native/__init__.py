"""C++ kernels for CPUs, compiled on first use and called through ctypes."""
