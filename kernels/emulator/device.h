// The emulator's twin of kernels/cuda/device.cuh: the same words, made of C++ for a processor.
//
// Kernel files include device.cuh, which includes this when FOLIO_EMULATOR is defined. Numbers and
// bit tricks are in cpp/numbers.h, vectors of numbers in cpp/vectors.h, warp collectives and barriers
// in cpp/collectives.h, atomics and copies in cpp/memory.h, tensor cores in cpp/tensor.h; how threads
// are run is in cpp/block.h.
#pragma once

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "cpp/collectives.h"
#include "cpp/memory.h"
#include "cpp/numbers.h"
#include "cpp/registry.h"
#include "cpp/tensor.h"
#include "cpp/vectors.h"

// No header of the standard library may follow these.
#define __device__
#define __host__
#define __global__
#define __constant__ static
#define __forceinline__ inline
#define __align__(num_bytes) alignas(num_bytes)
#define DEVICE inline

#define threadIdx (emulator::thread_index())
#define blockIdx (emulator::self->block->index)
#define blockDim (emulator::self->block->num_threads_xyz)
#define gridDim (emulator::self->block->grid)

// Appended to the names of kernels: changed copies of a file live beside it (see mutants/).
#ifndef EMULATOR_VARIANT
#define EMULATOR_VARIANT ""
#endif

// Defines the body, and a line in the registry by which the host finds and starts it.
#define FOLIO_KERNEL(name, Params, max_threads, min_blocks)                                          \
    static void name(const Params& p);                                                               \
    static const emulator::Kernel name##_registered(                                                 \
        #name EMULATOR_VARIANT, sizeof(Params), max_threads,                                         \
        [](const void* params) { name(*static_cast<const Params*>(params)); });                      \
    static void name([[maybe_unused]] const Params& p)

#define DYNAMIC_SHARED(name) unsigned char* const name = emulator::self->block->shared

inline void wait_for_previous_kernel() { emulator::self->block->note_wait(); }
inline void let_next_kernel_begin() {}
