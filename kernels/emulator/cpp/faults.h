// Accesses that the processor refuses become failures of the launch.
#pragma once
#include <stddef.h>

namespace emulator {

// From here on a fault of a CUDA thread fails its launch; any other fault does what it did before.
void catch_faults();

// Gives the thread of the operating system that it is called on a stack for handling faults.
struct FaultStack {
    FaultStack(void* memory, size_t num_bytes);
    ~FaultStack();
    FaultStack(const FaultStack&) = delete;
    FaultStack& operator=(const FaultStack&) = delete;

  private:
    // Large enough for a stack_t, which this header does not name.
    alignas(16) unsigned char previous[64];
};

} // namespace emulator
