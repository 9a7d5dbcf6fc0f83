// Chunked lightning attention, forward and backward.
#include "gemm.h"

extern "C" int cispo_vector_bytes() { return cispo::kLanes * sizeof(float); }
