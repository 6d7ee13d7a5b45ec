// Barriers, shuffles and votes. Each names the line it is called from, so that lanes which meet in
// different calls are told from lanes which meet in one.
#pragma once
#include <stdint.h>
#include <string.h>

#include <type_traits>

#include "block.h"

namespace emulator {

constexpr int width_of_warp = static_cast<int>(warp_size);

enum class Shuffle { indexed, up, down, exclusive_or };

template <class T> struct ShuffleOperands {
    T value;
    T result;
    int argument;
    int width;
};

// The lane that `lane` reads: itself where it would reach beyond its segment of `width` lanes.
template <Shuffle kind> inline int shuffle_source(int lane, int argument, int width) {
    const int first = lane & ~(width - 1);
    const int end = first + width;
    if (kind == Shuffle::indexed) return first + (argument & (width - 1));
    if (kind == Shuffle::up) return lane - argument < first ? lane : lane - argument;
    if (kind == Shuffle::down) return lane + argument >= end ? lane : lane + argument;
    const int other = lane ^ argument;
    return other >= end ? lane : other;
}

template <class T, Shuffle kind> void compute_shuffle(void* const* operands, uint32_t mask) {
    for (int lane = 0; lane < width_of_warp; lane++) {
        if ((mask >> lane & 1) == 0) continue;
        auto& mine = *static_cast<ShuffleOperands<T>*>(operands[lane]);
        const int source = shuffle_source<kind>(lane, mine.argument, mine.width);
        // What a lane outside the mask holds is undefined.
        if ((mask >> source & 1) == 0) memset(&mine.result, 0xff, sizeof(T));
        else mine.result = static_cast<ShuffleOperands<T>*>(operands[source])->value;
    }
}

template <class T, Shuffle kind>
inline T shuffle(const char* name, uint32_t mask, T value, int argument, int width, Site site) {
    static_assert(std::is_arithmetic<T>::value, "CUDA shuffles numbers");
    ShuffleOperands<T> operands{value, value, argument, width};
    self->block->collective({name, compute_shuffle<T, kind>, mask, site}, &operands);
    return operands.result;
}

struct VoteOperands {
    bool predicate;
    uint32_t ballot;
};

inline void compute_vote(void* const* operands, uint32_t mask) {
    uint32_t ballot = 0;
    for (int lane = 0; lane < width_of_warp; lane++) {
        if ((mask >> lane & 1) && static_cast<VoteOperands*>(operands[lane])->predicate) ballot |= 1u << lane;
    }
    for (int lane = 0; lane < width_of_warp; lane++) {
        if (mask >> lane & 1) static_cast<VoteOperands*>(operands[lane])->ballot = ballot;
    }
}

inline uint32_t vote(const char* name, uint32_t mask, bool predicate, Site site) {
    VoteOperands operands{predicate, 0};
    self->block->collective({name, compute_vote, mask, site}, &operands);
    return operands.ballot;
}

enum class Reduction { add, min, max };

template <class T> struct ReductionOperands {
    T value;
};

template <class T, Reduction kind> void compute_reduction(void* const* operands, uint32_t mask) {
    bool is_first = true;
    T result = 0;
    for (int lane = 0; lane < width_of_warp; lane++) {
        if ((mask >> lane & 1) == 0) continue;
        const T value = *static_cast<T*>(operands[lane]);
        if (is_first) result = value;
        else if (kind == Reduction::add) result += value;
        else if (kind == Reduction::min) result = value < result ? value : result;
        else result = value > result ? value : result;
        is_first = false;
    }
    for (int lane = 0; lane < width_of_warp; lane++) {
        if (mask >> lane & 1) *static_cast<T*>(operands[lane]) = result;
    }
}

template <class T, Reduction kind> inline T reduce(const char* name, uint32_t mask, T value, Site site) {
    static_assert(std::is_integral<T>::value && sizeof(T) == 4, "CUDA reduces 32-bit integers");
    self->block->collective({name, compute_reduction<T, kind>, mask, site}, &value);
    return value;
}

inline void compute_nothing(void* const*, uint32_t) {}

} // namespace emulator

#define EMULATOR_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(EMULATOR_SITE) { emulator::self->block->barrier({file, line}); }

inline void __syncwarp(uint32_t mask = ~0u, EMULATOR_SITE) {
    emulator::self->block->collective({"__syncwarp", emulator::compute_nothing, mask, {file, line}}, nullptr);
}

template <class T>
inline T __shfl_sync(uint32_t mask, T value, int lane, int width = 32, EMULATOR_SITE) {
    using namespace emulator;
    return shuffle<T, Shuffle::indexed>("__shfl_sync", mask, value, lane, width, {file, line});
}
template <class T>
inline T __shfl_up_sync(uint32_t mask, T value, unsigned delta, int width = 32, EMULATOR_SITE) {
    using namespace emulator;
    const int distance = static_cast<int>(delta);
    return shuffle<T, Shuffle::up>("__shfl_up_sync", mask, value, distance, width, {file, line});
}
template <class T>
inline T __shfl_down_sync(uint32_t mask, T value, unsigned delta, int width = 32, EMULATOR_SITE) {
    using namespace emulator;
    const int distance = static_cast<int>(delta);
    return shuffle<T, Shuffle::down>("__shfl_down_sync", mask, value, distance, width, {file, line});
}
template <class T>
inline T __shfl_xor_sync(uint32_t mask, T value, int lanes, int width = 32, EMULATOR_SITE) {
    using namespace emulator;
    return shuffle<T, Shuffle::exclusive_or>("__shfl_xor_sync", mask, value, lanes, width, {file, line});
}

inline uint32_t __ballot_sync(uint32_t mask, int predicate, EMULATOR_SITE) {
    return emulator::vote("__ballot_sync", mask, predicate != 0, {file, line});
}
inline int __any_sync(uint32_t mask, int predicate, EMULATOR_SITE) {
    return emulator::vote("__any_sync", mask, predicate != 0, {file, line}) != 0;
}
inline int __all_sync(uint32_t mask, int predicate, EMULATOR_SITE) {
    return emulator::vote("__all_sync", mask, predicate == 0, {file, line}) == 0;
}

template <class T> inline T __reduce_add_sync(uint32_t mask, T value, EMULATOR_SITE) {
    return emulator::reduce<T, emulator::Reduction::add>("__reduce_add_sync", mask, value, {file, line});
}
template <class T> inline T __reduce_min_sync(uint32_t mask, T value, EMULATOR_SITE) {
    return emulator::reduce<T, emulator::Reduction::min>("__reduce_min_sync", mask, value, {file, line});
}
template <class T> inline T __reduce_max_sync(uint32_t mask, T value, EMULATOR_SITE) {
    return emulator::reduce<T, emulator::Reduction::max>("__reduce_max_sync", mask, value, {file, line});
}
