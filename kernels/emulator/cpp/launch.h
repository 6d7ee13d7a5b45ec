// A launch, as the blocks that run it share it, and copies that threads have under way: what the emulator
// keeps from the kernels, which are compiled without the headers that it needs.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <atomic>
#include <mutex>
#include <string>
#include <vector>

#include "block.h"
#include "registry.h"

namespace emulator {

struct Launch {
    const Kernel* kernel;
    const void* params;
    uint3 grid;
    unsigned num_threads;
    unsigned num_shared_bytes;
    uint64_t seed;
    const Range* allocations;
    size_t num_allocations;
    std::atomic<uint64_t> num_mmas;
    std::atomic<bool> has_waited; // for the kernel before it
    std::atomic<bool> failed;
    std::mutex failure_lock;
    std::string failure;
};

// 16 bytes on their way to shared memory.
struct PendingCopy {
    void* shared;
    const void* source;
    bool valid;
};

// Copies of a thread that are not retired, and how many of them each committed group holds, oldest first.
struct Copies {
    std::vector<PendingCopy> pending;
    std::vector<uint32_t> groups;
    uint32_t num_uncommitted = 0;

    void clear() {
        pending.clear();
        groups.clear();
        num_uncommitted = 0;
    }
};

} // namespace emulator
