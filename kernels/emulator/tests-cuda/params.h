// Parameters of the kernels that test the emulator itself. Mirrored in kernels/tests/cuda_emulator.
#pragma once
#include <stdint.h>

// One struct for all of them: what the pointers and numbers mean is each kernel's business.
struct ProbeParams {
    const void* input;
    void* output;
    int32_t count;
    int32_t variant;
};
