// How a thread block runs. See block.h.
#include "block.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>

#include "fiber.h"
#include "launch.h"
#include "pages.h"

namespace emulator {

thread_local Thread* self = nullptr;

namespace {

// A stride that is no power of two, so that the same variable of all threads does not fall into one
// set of the cache.
constexpr size_t stack_bytes = (64 << 10) + 320;
constexpr size_t num_canary_bytes = 4096;
constexpr size_t num_stack_canary_bytes = 64;
constexpr size_t max_shared_bytes = 256 << 10;
constexpr size_t page_bytes = 4096;
constexpr size_t stacks_bytes = (max_threads * stack_bytes + page_bytes - 1) / page_bytes * page_bytes;
constexpr size_t memory_bytes = stacks_bytes + 2 * num_canary_bytes + max_shared_bytes;
constexpr unsigned char canary = 0xcb;
constexpr unsigned char poison = 0xff;

unsigned char* stack_of(unsigned char* memory, unsigned thread) {
    return memory + thread * stack_bytes;
}

bool is_filled(const unsigned char* bytes, size_t num_bytes, unsigned char value) {
    return bytes[0] == value && memcmp(bytes, bytes + 1, num_bytes - 1) == 0;
}

uint64_t mix(uint64_t x) {
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

} // namespace

Block::Block() : threads(new Thread[max_threads]) {
    for (unsigned i = 0; i < max_threads; i++) threads[i].copies = new Copies;
    memory = static_cast<unsigned char*>(folio_emulator_map(memory_bytes));
    if (memory == nullptr) {
        perror("cannot map the stacks of the CUDA emulator");
        abort();
    }
    // Stacks first, then shared memory between two canaries, at a multiple of the page size.
    shared = memory + stacks_bytes + num_canary_bytes;
    memset(shared - num_canary_bytes, canary, num_canary_bytes);
}

Block::~Block() {
    folio_emulator_unmap(memory, memory_bytes);
    for (unsigned i = 0; i < max_threads; i++) delete threads[i].copies;
    delete[] threads;
}

unsigned Block::random() {
    random_state += 0x9e3779b97f4a7c15;
    return static_cast<unsigned>(mix(random_state) >> 32);
}

void Block::begin(Launch& the_launch, uint3 the_index) {
    launch = &the_launch;
    index = the_index;
    num_threads_xyz = {launch->num_threads, 1, 1};
    grid = launch->grid;
    num_shared_bytes = launch->num_shared_bytes;
    last_range = {0, 0};
    const uint64_t number = (uint64_t{index.z} * launch->grid.y + index.y) * launch->grid.x + index.x;
    random_state = mix(launch->seed) + mix(number + 1);
    memset(shared, poison, num_shared_bytes);
    memset(shared + num_shared_bytes, canary, num_canary_bytes);
    prepare_threads();
    paused = pick_anywhere();
}

Block::Outcome Block::resume() {
    self = paused;
    paused = nullptr;
    folio_emulator_switch(&launch_stack_pointer, self->stack_pointer);
    self = nullptr;
    if (paused != nullptr) return Outcome::paused;
    if (!launch->failed) check_block_end();
    return Outcome::finished;
}

void Block::prepare_threads() {
    const unsigned num_threads = launch->num_threads;
    num_warps = (num_threads + warp_size - 1) / warp_size;
    num_alive = num_threads;
    num_at_barrier = 0;
    for (unsigned w = 0; w < num_warps; w++) {
        const unsigned num_lanes = std::min(num_threads - w * warp_size, warp_size);
        warps[w] = {};
        warps[w].ready = num_lanes == warp_size ? ~0u : (1u << num_lanes) - 1;
        warps[w].first_thread = w * warp_size;
        warps[w].rotation = random() % warp_size;
    }
    for (unsigned i = 0; i < num_threads; i++) {
        Thread& thread = threads[i];
        unsigned char* const stack = stack_of(memory, i);
        thread.stack_pointer = prepare_stack(stack + stack_bytes, enter);
        memset(stack, canary, num_stack_canary_bytes);
        thread.block = this;
        thread.warp = &warps[i / warp_size];
        thread.index = i;
        thread.lane = i % warp_size;
        thread.copies->clear();
    }
}

void Block::enter() {
    Launch& launch = *self->block->launch;
    launch.kernel->body(launch.params);
    self->block->finish_thread();
}

void Block::finish_thread() {
    Thread& thread = *self;
    Warp& warp = *thread.warp;
    const uint32_t bit = 1u << thread.lane;
    const unsigned char* const stack = stack_of(memory, thread.index);
    if (!is_filled(stack, num_stack_canary_bytes, canary)) fail("its stack has overflowed");
    if (!thread.copies->pending.empty()) fail("it returned while a cp.async of its was still under way");
    for (uint32_t lanes = warp.in_collective; lanes != 0; lanes &= lanes - 1) {
        const Thread& other = threads[warp.first_thread + __builtin_ctz(lanes)];
        const Collective& its = other.collective;
        if (its.mask & bit) {
            fail("it returned while lane %u waits for it in %s at %s:%d", other.lane, its.operation,
                 its.site.file, its.site.line);
        }
    }
    warp.ready &= ~bit;
    warp.done |= bit;
    num_alive--;
    if (num_alive == 0) {
        folio_emulator_switch(&thread.stack_pointer, launch_stack_pointer);
    }
    if (num_at_barrier == num_alive) release_barrier();
    leave_thread();
    __builtin_unreachable();
}

void Block::check_block_end() {
    const unsigned char* end = shared + num_shared_bytes;
    if (!is_filled(end, num_canary_bytes, canary)) {
        size_t first = 0;
        while (end[first] == canary) first++;
        char cause[160];
        snprintf(cause, sizeof cause, "it wrote %zu bytes past the end of its %u bytes of shared memory",
                 first, num_shared_bytes);
        record_failure(cause);
    }
    if (!is_filled(shared - num_canary_bytes, num_canary_bytes, canary)) {
        record_failure("it wrote below the beginning of shared memory");
        memset(shared - num_canary_bytes, canary, num_canary_bytes);
    }
}

// ---- who runs next ---------------------------------------------------------------------------------------

Thread* Block::pick_in(Warp& warp) {
    if (warp.ready == 0) return nullptr;
    const unsigned r = warp.rotation;
    const uint32_t rotated = warp.ready >> r | (r == 0 ? 0 : warp.ready << (warp_size - r));
    // Odd rotations go down through the lanes, even ones up.
    const unsigned at = r & 1 ? 31 - __builtin_clz(rotated) : __builtin_ctz(rotated);
    return &threads[warp.first_thread + (at + r) % warp_size];
}

Thread* Block::pick_anywhere() {
    const unsigned first = random() % num_warps;
    for (unsigned i = 0; i < num_warps; i++) {
        Warp& warp = warps[(first + i) % num_warps];
        if (warp.ready != 0) return pick_in(warp);
    }
    return nullptr;
}

void Block::switch_to(Thread* next) {
    Thread* const from = self;
    if (next == from) return;
    self = next;
    folio_emulator_switch(&from->stack_pointer, next->stack_pointer);
}

void Block::leave_thread() {
    Thread* next = pick_in(*self->warp);
    if (next == nullptr) next = pick_anywhere();
    if (next == nullptr) fail_deadlock();
    switch_to(next);
}

void Block::note_wait() { launch->has_waited.store(true, std::memory_order_relaxed); }

void Block::maybe_yield() {
    const unsigned chance = random() % 8;
    if (chance < 3) {
        paused = self;
        folio_emulator_switch(&self->stack_pointer, launch_stack_pointer);
    } else if (chance < 6) {
        self->warp->rotation = random() % warp_size;
        switch_to(chance == 3 ? pick_anywhere() : pick_in(*self->warp));
    }
}

// ---- waiting ---------------------------------------------------------------------------------------------

void Block::collective(const Collective& what, void* operands) {
    Thread& thread = *self;
    Warp& warp = *thread.warp;
    const uint32_t bit = 1u << thread.lane;
    thread.collective = what;
    if ((what.mask & bit) == 0) {
        fail("%s at %s:%d by a lane outside its own mask 0x%08x", what.operation, what.site.file,
             what.site.line, what.mask);
    }
    const uint32_t gone = what.mask & warp.done;
    if (gone != 0) {
        fail("%s at %s:%d waits for lane %d, which has returned", what.operation, what.site.file,
             what.site.line, __builtin_ctz(gone));
    }
    // One of those that wait tells whether all agree, but for masks that overlap: hence all at the end.
    check_agreement(warp.in_collective & what.mask & -(warp.in_collective & what.mask));
    warp.operands[thread.lane] = operands;
    warp.in_collective |= bit;
    warp.ready &= ~bit;
    const uint32_t exist = warp.ready | warp.in_collective | warp.at_barrier | warp.done;
    if ((warp.in_collective & what.mask) != (exist & what.mask)) {
        leave_thread();
        return;
    }
    const uint32_t arrived = exist & what.mask;
    check_agreement(arrived);
    what.compute(warp.operands, arrived);
    warp.in_collective &= ~arrived;
    warp.ready |= arrived;
    warp.rotation = random() % warp_size;
}

void Block::check_agreement(uint32_t lanes) {
    const Collective& mine = self->collective;
    for (; lanes != 0; lanes &= lanes - 1) {
        const Thread& other = threads[self->warp->first_thread + __builtin_ctz(lanes)];
        const Collective& its = other.collective;
        const bool is_same_site = its.site.line == mine.site.line && its.site.file == mine.site.file;
        if (its.compute != mine.compute || its.mask != mine.mask || !is_same_site) fail_diverged(other);
    }
}

void Block::barrier(Site site) {
    Thread& thread = *self;
    if (num_at_barrier > 0) {
        for (unsigned i = 0; i < launch->num_threads; i++) {
            const Thread& other = threads[i];
            if ((other.warp->at_barrier >> other.lane & 1) == 0) continue;
            if (other.barrier.line != site.line || other.barrier.file != site.file) {
                fail("__syncthreads at %s:%d while thread %u is in the one at %s:%d", site.file,
                     site.line, i, other.barrier.file, other.barrier.line);
            }
            break;
        }
    }
    thread.barrier = site;
    thread.warp->ready &= ~(1u << thread.lane);
    thread.warp->at_barrier |= 1u << thread.lane;
    num_at_barrier++;
    if (num_at_barrier < num_alive) {
        leave_thread();
        return;
    }
    release_barrier();
    switch_to(pick_anywhere());
}

void Block::release_barrier() {
    for (unsigned w = 0; w < num_warps; w++) {
        warps[w].ready |= warps[w].at_barrier;
        warps[w].at_barrier = 0;
        warps[w].rotation = random() % warp_size;
    }
    num_at_barrier = 0;
}

// ---- what can go wrong --------------------------------------------------------------------------------

void Block::record_failure(const char* cause) {
    char who[256];
    const uint3 b = index;
    const char* const name = launch->kernel->name;
    const int length = snprintf(who, sizeof who, "kernel %s, block (%u, %u, %u)", name, b.x, b.y, b.z);
    if (self != nullptr) {
        snprintf(who + length, sizeof who - length, ", thread %u (warp %u, lane %u)", self->index,
                 self->index / warp_size, self->lane);
    }
    const std::lock_guard<std::mutex> guard(launch->failure_lock);
    if (launch->failed) return;
    launch->failure = std::string(who) + ": " + cause;
    launch->failed = true;
}

void Block::fail(const char* format, ...) {
    char cause[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(cause, sizeof cause, format, arguments);
    va_end(arguments);
    record_failure(cause);
    folio_emulator_switch(&self->stack_pointer, launch_stack_pointer);
    __builtin_unreachable();
}

void Block::fail_diverged(const Thread& other) {
    const Collective& its = other.collective;
    const Collective& mine = self->collective;
    fail("its warp has diverged: %s at %s:%d with mask 0x%08x, while lane %u is in %s at %s:%d with mask "
         "0x%08x",
         mine.operation, mine.site.file, mine.site.line, mine.mask, other.lane, its.operation,
         its.site.file, its.site.line, its.mask);
}

void Block::fail_deadlock() {
    const Thread* collective = nullptr;
    const Thread* barrier = nullptr;
    unsigned num_in_collective = 0;
    for (unsigned i = 0; i < launch->num_threads; i++) {
        const Thread& thread = threads[i];
        if (thread.warp->in_collective >> thread.lane & 1) {
            if (collective == nullptr) collective = &thread;
            num_in_collective++;
        }
        if (barrier == nullptr && (thread.warp->at_barrier >> thread.lane & 1)) barrier = &thread;
    }
    if (collective == nullptr) fail("deadlock: no thread can go on");
    const Collective& its = collective->collective;
    if (barrier == nullptr) {
        fail("deadlock: %u lanes wait in a collective, the first of them thread %u in %s at %s:%d",
             num_in_collective, collective->index, its.operation, its.site.file, its.site.line);
    }
    fail("deadlock: %u threads, among them %u, wait at __syncthreads at %s:%d and %u lanes in a "
         "collective, among them thread %u in %s at %s:%d",
         num_at_barrier, barrier->index, barrier->barrier.file, barrier->barrier.line,
         num_in_collective, collective->index, its.operation, its.site.file, its.site.line);
}

void Block::check_shared(const void* address, size_t num_bytes, const char* what) {
    const auto* bytes = static_cast<const unsigned char*>(address);
    const ptrdiff_t offset = bytes - shared;
    if (offset < 0 || static_cast<size_t>(offset) + num_bytes > num_shared_bytes) {
        fail("%s at offset %td, outside the %u bytes of shared memory", what, offset, num_shared_bytes);
    }
    if (offset % 16 != 0) fail("%s at offset %td of shared memory, which is no multiple of 16", what, offset);
}

// The last allocation that does not begin later.
const Range* Block::allocation_before(const void* address) const {
    const Range* const begin = launch->allocations;
    const Range* const end = begin + launch->num_allocations;
    const auto at = reinterpret_cast<uint64_t>(address);
    const Range* const later =
        std::upper_bound(begin, end, at, [](uint64_t at, const Range& range) { return at < range.begin; });
    return later == begin ? nullptr : later - 1;
}

void Block::check_global(const void* address, size_t num_bytes, const char* what) {
    const auto at = reinterpret_cast<uint64_t>(address);
    if (at % 16 != 0) fail("%s at %p, which is no multiple of 16", what, address);
    if (at - last_range.begin < last_range.num_bytes &&
        at - last_range.begin + num_bytes <= last_range.num_bytes) {
        return;
    }
    const Range* const range = allocation_before(address);
    if (range == nullptr) fail("%s at %p, which is below all device memory", what, address);
    if (at - range->begin + num_bytes > range->num_bytes) {
        fail("%s at %p, which is offset %llu of an allocation of %llu bytes", what, address,
             static_cast<unsigned long long>(at - range->begin),
             static_cast<unsigned long long>(range->num_bytes));
    }
    last_range = *range;
}

void Block::fail_fault() {
    // Within the pages that nobody may touch, so much is certain.
    constexpr int64_t reach = 1 << 20;
    const auto at = reinterpret_cast<int64_t>(fault_address);
    const int64_t in_stacks = at - reinterpret_cast<int64_t>(memory);
    if (in_stacks >= -reach && in_stacks < static_cast<int64_t>(stacks_bytes)) {
        fail("it accessed %p: its stack has overflowed", fault_address);
    }
    const int64_t in_shared = at - reinterpret_cast<int64_t>(shared);
    if (in_shared >= -reach && in_shared < reach + static_cast<int64_t>(max_shared_bytes)) {
        fail("it accessed offset %lld of %u bytes of shared memory", static_cast<long long>(in_shared),
             num_shared_bytes);
    }
    for (size_t i = 0; i < launch->num_allocations; i++) {
        const Range& range = launch->allocations[i];
        const int64_t offset = at - static_cast<int64_t>(range.begin);
        if (offset < -reach || offset >= static_cast<int64_t>(range.num_bytes) + reach) continue;
        fail("it accessed offset %lld of an allocation of %llu bytes", static_cast<long long>(offset),
             static_cast<unsigned long long>(range.num_bytes));
    }
    fail("it accessed %p, which is no device memory, or no longer", fault_address);
}

uintptr_t Block::end_of_stack(const Thread& thread) const {
    return reinterpret_cast<uintptr_t>(stack_of(memory, thread.index) + stack_bytes) & ~uintptr_t{15};
}

} // namespace emulator
