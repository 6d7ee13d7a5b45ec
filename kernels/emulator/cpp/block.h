// How a thread block runs: one fiber a thread, all on one thread of the operating system.
//
// A lane runs until it must wait: in a warp collective for the other lanes, at a barrier for the
// block. Then the next ready lane of its warp runs, and only when its warp has none, another warp: so
// each warp runs ahead as far as it can. The order of lanes and of warps is random, from the seed.
// When nobody is ready the block is deadlocked. At an atomic the whole block may be set aside for
// another one. An error leaves the fibers where they are and goes back to the launch.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "vectors.h"

namespace emulator {

constexpr unsigned warp_size = 32;
constexpr unsigned max_threads = 1024;

// A line of a kernel's source.
struct Site {
    const char* file;
    int line;
};

// A range of device memory.
struct Range {
    uint64_t begin;
    uint64_t num_bytes;
};

struct Block;
struct Warp;

// Computes a collective for all lanes at once; what lane l deposited is operands[l].
using Compute = void (*)(void* const* operands, uint32_t mask);

// What a lane waits in.
struct Collective {
    const char* operation;
    Compute compute;
    uint32_t mask;
    Site site;
};

struct Launch;
struct Copies;

// One CUDA thread.
struct Thread {
    void* stack_pointer;
    Block* block;
    Warp* warp;
    unsigned index;
    unsigned lane;
    Collective collective;
    Site barrier;
    Copies* copies; // those under way
};

// Lanes by what they do: one bit each, of exactly one of the four masks where the lane exists.
struct Warp {
    uint32_t ready;
    uint32_t in_collective;
    uint32_t at_barrier;
    uint32_t done;
    unsigned first_thread;
    unsigned rotation;
    void* operands[warp_size];
};

// Runs one block after another, on stacks and shared memory of its own.
struct Block {
    enum class Outcome { paused, finished };

    Launch* launch;
    uint3 index;
    uint3 num_threads_xyz;
    uint3 grid;
    unsigned char* shared;
    unsigned num_shared_bytes;
    const void* fault_address;

    Block();
    ~Block();
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;

    // Takes on the block `index` of a launch.
    void begin(Launch& launch, uint3 index);
    // Runs the block to a pause, to its end or to a failure.
    Outcome resume();

    // For threads: waits until all lanes of the mask deposited their operands and one computed for all.
    void collective(const Collective& collective, void* operands);
    void barrier(Site site);
    // For threads: that one has waited for the kernel before.
    void note_wait();
    // For threads: lets other lanes or another block go first, or not, as chance has it.
    void maybe_yield();
    // For threads: ends the launch with what went wrong.
    [[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 2, 3)));

    // For threads whose access to `fault_address` was refused.
    [[noreturn]] void fail_fault();

    void check_shared(const void* address, size_t num_bytes, const char* what);
    void check_global(const void* address, size_t num_bytes, const char* what);
    uintptr_t end_of_stack(const Thread& thread) const;

  private:
    Thread* threads;
    Warp warps[max_threads / warp_size];
    unsigned num_warps;
    unsigned num_alive;
    unsigned num_at_barrier;
    Thread* paused;
    uint64_t random_state;
    void* launch_stack_pointer;
    unsigned char* memory;
    Range last_range;

    static void enter();
    void prepare_threads();
    void check_block_end();
    unsigned random();
    void release_barrier();
    void leave_thread();
    void check_agreement(uint32_t lanes);
    [[noreturn]] void finish_thread();
    [[noreturn]] void fail_deadlock();
    [[noreturn]] void fail_diverged(const Thread& other);
    Thread* pick_in(Warp& warp);
    Thread* pick_anywhere();
    void switch_to(Thread* next);
    void record_failure(const char* cause);
    const Range* allocation_before(const void* address) const;
};

// The thread that runs.
extern thread_local Thread* self;

inline uint3 thread_index() { return {self->index, 0, 0}; }

} // namespace emulator
