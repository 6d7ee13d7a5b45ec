// The list of kernels that were compiled into the emulator.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace emulator {

// One entry point. FOLIO_KERNEL makes a static one, which joins the list before main begins.
struct Kernel {
    const char* name;
    uint32_t num_params_bytes;
    uint32_t max_threads;
    void (*body)(const void* params);
    const Kernel* next;

    Kernel(const char* name, size_t num_params_bytes, unsigned max_threads, void (*body)(const void*));
};

// The kernel that joined last; the others follow by `next`.
const Kernel* first_kernel();

} // namespace emulator
