"""Inner loops in C with their tensor forms, one file a kernel; where C cannot be had, the tensor form computes."""
