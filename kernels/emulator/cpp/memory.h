// Atomics, which are real ones since blocks run on several threads, and copies in the background.
//
// A cp.async fills its destination with NaN at once and copies only when a wait of the same thread
// retires its group: the latest that a device may, so that a kernel which does not wait is found out.
#pragma once
#include <stdint.h>
#include <string.h>

#include "block.h"
#include "numbers.h"

namespace emulator {

// An atomic is where threads meet without a barrier: whoever comes second may come first.
template <class T, class Change> inline T atomic_change(T* address, Change change) {
    self->block->maybe_yield();
    T old = __atomic_load_n(address, __ATOMIC_SEQ_CST);
    T changed = change(old);
    while (!__atomic_compare_exchange_n(address, &old, changed, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
        changed = change(old);
    }
    self->block->maybe_yield();
    return old;
}

void start_copy(void* shared, const void* source, bool valid);
void commit_copies();
void wait_for_copies(unsigned num_groups_left);

} // namespace emulator

#define EMULATOR_ATOMIC(name, T, changed)                                                              \
    inline T name(T* address, T value) {                                                               \
        return emulator::atomic_change(address, [=](T old) -> T { return changed; });                  \
    }
EMULATOR_ATOMIC(atomicAdd, int, static_cast<int>(static_cast<unsigned>(old) + static_cast<unsigned>(value)))
EMULATOR_ATOMIC(atomicAdd, unsigned, old + value)
EMULATOR_ATOMIC(atomicAdd, unsigned long long, old + value)
EMULATOR_ATOMIC(atomicSub, int, static_cast<int>(static_cast<unsigned>(old) - static_cast<unsigned>(value)))
EMULATOR_ATOMIC(atomicSub, unsigned, old - value)
EMULATOR_ATOMIC(atomicMax, int, old > value ? old : value)
EMULATOR_ATOMIC(atomicMax, unsigned, old > value ? old : value)
EMULATOR_ATOMIC(atomicMax, unsigned long long, old > value ? old : value)
EMULATOR_ATOMIC(atomicMin, int, old < value ? old : value)
EMULATOR_ATOMIC(atomicMin, unsigned, old < value ? old : value)
EMULATOR_ATOMIC(atomicMin, unsigned long long, old < value ? old : value)
EMULATOR_ATOMIC(atomicExch, int, ((void)old, value))
EMULATOR_ATOMIC(atomicExch, unsigned, ((void)old, value))
EMULATOR_ATOMIC(atomicExch, unsigned long long, ((void)old, value))
EMULATOR_ATOMIC(atomicOr, int, old | value)
EMULATOR_ATOMIC(atomicOr, unsigned, old | value)
EMULATOR_ATOMIC(atomicAnd, int, old & value)
EMULATOR_ATOMIC(atomicAnd, unsigned, old & value)
EMULATOR_ATOMIC(atomicInc, unsigned, old >= value ? 0 : old + 1)
#undef EMULATOR_ATOMIC

inline float atomicAdd(float* address, float value) {
    auto* bits = reinterpret_cast<unsigned*>(address);
    const unsigned old = emulator::atomic_change(
        bits, [=](unsigned x) { return __float_as_uint(__uint_as_float(x) + value); });
    return __uint_as_float(old);
}

#define EMULATOR_COMPARE_AND_SWAP(T)                                                                   \
    inline T atomicCAS(T* address, T expected, T value) {                                              \
        return emulator::atomic_change(address, [=](T old) { return old == expected ? value : old; });  \
    }
EMULATOR_COMPARE_AND_SWAP(int)
EMULATOR_COMPARE_AND_SWAP(unsigned)
EMULATOR_COMPARE_AND_SWAP(unsigned long long)
#undef EMULATOR_COMPARE_AND_SWAP

inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
[[noreturn]] inline void __trap() { emulator::self->block->fail("__trap"); }

// Loads and stores with hints for the caches.
template <class T> inline T __ldg(const T* address) { return *address; }
template <class T> inline T __ldcg(const T* address) { return *address; }
template <class T> inline T __ldcs(const T* address) { return *address; }
template <class T> inline T __ldcv(const T* address) { return *const_cast<const volatile T*>(address); }
template <class T> inline void __stcg(T* address, T value) { *address = value; }
template <class T> inline void __stcs(T* address, T value) { *address = value; }

inline void cp_async_16(void* shared, const void* source, bool valid) {
    emulator::start_copy(shared, source, valid);
}
inline void cp_async_commit() { emulator::commit_copies(); }
template <int N> inline void cp_async_wait() {
    static_assert(N >= 0, "a number of groups");
    emulator::wait_for_copies(N);
}
