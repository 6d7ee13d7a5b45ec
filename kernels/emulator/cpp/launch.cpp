// What the Rust side calls: the list of kernels, and launches. Mirrored in src/machine.rs.
//
// The blocks of a grid are dealt in random order to the threads of the operating system. Each has a few
// under way at a time, and changes from one to another where they pause.
#include <string.h>

#include <algorithm>
#include <memory>
#include <thread>

#include "faults.h"
#include "launch.h"

namespace emulator {

namespace {

// A constant: it must be there before the first static Kernel joins.
const Kernel* newest_kernel = nullptr;

// Blocks that one thread of the operating system has under way.
constexpr size_t num_residents = 3;
constexpr size_t fault_stack_bytes = 64 << 10;

struct Worker {
    std::unique_ptr<Block> blocks[num_residents];
    std::unique_ptr<unsigned char[]> fault_stack{new unsigned char[fault_stack_bytes]};
};

struct Machine {
    std::vector<Worker> workers;
};

// Where the number of block `position` of `num_blocks` is in a random order: steps by a stride that
// has no factor in common with the number of blocks.
struct Order {
    uint64_t num_blocks, first, stride;

    Order(uint64_t num_blocks, uint64_t seed) : num_blocks(num_blocks), first(seed % num_blocks), stride(1) {
        if (num_blocks < 3) {
            stride = 1;
            return;
        }
        stride = (seed >> 8) % (num_blocks - 1) + 1;
        while (greatest_common_divisor(stride, num_blocks) != 1) stride = stride % (num_blocks - 1) + 1;
    }

    uint64_t at(uint64_t position) const { return (first + position * stride) % num_blocks; }

    static uint64_t greatest_common_divisor(uint64_t x, uint64_t y) {
        while (y != 0) {
            const uint64_t rest = x % y;
            x = y;
            y = rest;
        }
        return x;
    }
};

// The blocks of a grid that nobody has begun.
struct Grid {
    Launch& launch;
    Order order;
    std::atomic<uint64_t> next{0};

    bool begin_next(Block& block) {
        const uint64_t position = next.fetch_add(1, std::memory_order_relaxed);
        if (position >= order.num_blocks) return false;
        const uint64_t number = order.at(position);
        const uint3 size = launch.grid;
        block.begin(launch, {static_cast<unsigned>(number % size.x),
                             static_cast<unsigned>(number / size.x % size.y),
                             static_cast<unsigned>(number / size.x / size.y)});
        return true;
    }
};

// Which residents are under way, the one that paused last at the end.
struct Residents {
    size_t paused[num_residents];
    size_t num_paused = 0;
    bool is_late; // whether who pauses waits for all that come after
    uint64_t state;

    explicit Residents(uint64_t seed) : is_late(seed & 1), state(seed) {}

    // Takes out one that goes on.
    size_t take_paused() {
        state = state * 0x5851f42d4c957f2d + 0x14057b7ef767814f;
        const size_t at = is_late ? num_paused - 1 : (state >> 33) % num_paused;
        const size_t taken = paused[at];
        for (size_t i = at + 1; i < num_paused; i++) paused[i - 1] = paused[i];
        num_paused--;
        return taken;
    }

    // One that has nothing to do; there must be one.
    size_t idle() const {
        for (size_t i = 0;; i++) {
            if (std::find(paused, paused + num_paused, i) == paused + num_paused) return i;
        }
    }

    bool begins_next() {
        state = state * 0x5851f42d4c957f2d + 0x14057b7ef767814f;
        return num_paused == 0 || (num_paused < num_residents && (is_late || state >> 63));
    }
};

void run_blocks(Worker& worker, Grid& grid) {
    const FaultStack fault_stack(worker.fault_stack.get(), fault_stack_bytes);
    Residents residents(grid.launch.seed >> 7);
    bool are_blocks_left = true;
    while (!grid.launch.failed) {
        size_t i = num_residents;
        if (are_blocks_left && residents.begins_next()) {
            i = residents.idle();
            if (worker.blocks[i] == nullptr) worker.blocks[i] = std::make_unique<Block>();
            are_blocks_left = grid.begin_next(*worker.blocks[i]);
        }
        if (i == num_residents || !are_blocks_left) {
            if (residents.num_paused == 0) return;
            i = residents.take_paused();
        }
        const bool pauses = worker.blocks[i]->resume() == Block::Outcome::paused;
        if (pauses) residents.paused[residents.num_paused++] = i;
    }
}

void run_grid(Machine& machine, Launch& launch) {
    const uint64_t num_blocks = uint64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
    Grid grid{launch, Order(num_blocks, launch.seed)};
    std::vector<std::thread> others;
    for (size_t i = 1; i < machine.workers.size() && i < num_blocks; i++) {
        others.emplace_back([&, i] { run_blocks(machine.workers[i], grid); });
    }
    run_blocks(machine.workers[0], grid);
    for (std::thread& other : others) other.join();
    if (!launch.failed && !launch.has_waited) {
        // Then it could end before the kernel before it, and the kernel after it begin too early.
        launch.failure = std::string("kernel ") + launch.kernel->name +
                         ": none of its threads called wait_for_previous_kernel";
        launch.failed = true;
    }
}

} // namespace

Kernel::Kernel(const char* name, size_t num_params_bytes, unsigned max_threads,
               void (*body)(const void* params))
    : name(name), num_params_bytes(static_cast<uint32_t>(num_params_bytes)), max_threads(max_threads),
      body(body), next(newest_kernel) {
    newest_kernel = this;
}

const Kernel* first_kernel() { return newest_kernel; }

} // namespace emulator

extern "C" {

struct FolioEmulatorLaunch {
    const emulator::Kernel* kernel;
    const void* params;
    const emulator::Range* allocations;
    size_t num_allocations;
    uint64_t seed;
    uint32_t grid[3];
    uint32_t num_threads;
    uint32_t num_shared_bytes;
};

struct FolioEmulatorOutcome {
    uint64_t num_mmas;
    char failure[1536]; // empty: none
};

const emulator::Kernel* folio_emulator_first_kernel() { return emulator::first_kernel(); }

void* folio_emulator_new_machine(size_t num_workers) {
    emulator::catch_faults();
    auto* machine = new emulator::Machine;
    machine->workers.resize(num_workers);
    return machine;
}

void folio_emulator_free_machine(void* machine) { delete static_cast<emulator::Machine*>(machine); }

void folio_emulator_launch(void* machine, const FolioEmulatorLaunch* what, FolioEmulatorOutcome* outcome) {
    alignas(64) unsigned char params[4096];
    memcpy(params, what->params, what->kernel->num_params_bytes);
    emulator::Launch launch{};
    launch.kernel = what->kernel;
    launch.params = params;
    launch.grid = {what->grid[0], what->grid[1], what->grid[2]};
    launch.num_threads = what->num_threads;
    launch.num_shared_bytes = what->num_shared_bytes;
    launch.seed = what->seed;
    launch.allocations = what->allocations;
    launch.num_allocations = what->num_allocations;
    emulator::run_grid(*static_cast<emulator::Machine*>(machine), launch);
    outcome->num_mmas = launch.num_mmas;
    strncpy(outcome->failure, launch.failure.c_str(), sizeof outcome->failure - 1);
}

} // extern "C"
