// What kernels are written in: number types, and one small wrapper for each piece of PTX.
//
// Kernels use nothing else of CUDA but threadIdx, blockIdx, blockDim, gridDim, __syncthreads, __syncwarp,
// the *_sync shuffles and votes, atomicAdd / atomicCAS / atomicMax, and C math. The emulator has a twin
// of every one of these, so that the same files compile with g++ and run on a processor.
#pragma once
#include "../include/params.h"

#ifdef FOLIO_EMULATOR
#include "../emulator/device.h"
#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

using bf16 = __nv_bfloat16;
using f16 = __half;

// An entry point: FOLIO_KERNEL(name, Params, max_threads, min_blocks_per_sm) { ... p ... }
#define FOLIO_KERNEL(name, Params, max_threads, min_blocks)                                       \
    extern "C" __global__ void __launch_bounds__(max_threads, min_blocks)                         \
        name(const __grid_constant__ Params p)

// All shared memory is dynamic: DYNAMIC_SHARED(bytes) declares `unsigned char bytes[]`.
#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]

#define DEVICE __device__ __forceinline__

DEVICE uint32_t shared_address(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// ---- numbers --------------------------------------------------------------------------------------

DEVICE float to_float(bf16 x) { return __bfloat162float(x); }
DEVICE float to_float(f16 x) { return __half2float(x); }
DEVICE float to_float(float x) { return x; }

template <class T> DEVICE T from_float(float x);
template <> DEVICE bf16 from_float<bf16>(float x) { return __float2bfloat16_rn(x); }
template <> DEVICE f16 from_float<f16>(float x) { return __float2half_rn(x); }
template <> DEVICE float from_float<float>(float x) { return x; }

// Two numbers in one register, the first in the low half. One instruction: conversions of single numbers
// to bf16 run at an eighth of its rate on sm_90.
template <class T> DEVICE uint32_t pack2(float low, float high);
template <> DEVICE uint32_t pack2<bf16>(float low, float high) {
    union { __nv_bfloat162 pair; uint32_t word; } u;
    u.pair = __floats2bfloat162_rn(low, high);
    return u.word;
}
template <> DEVICE uint32_t pack2<f16>(float low, float high) {
    union { __half2 pair; uint32_t word; } u;
    u.pair = __floats2half2_rn(low, high);
    return u.word;
}
template <class T> DEVICE float2 unpack2(uint32_t word) {
    union { uint32_t word; T parts[2]; } u;
    u.word = word;
    return make_float2(to_float(u.parts[0]), to_float(u.parts[1]));
}

// 2^x to within 2 ulp; 2^-inf is 0.
DEVICE float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// ---- copies from global to shared memory behind the back of the thread -------------------------------

// 16 bytes, both ends aligned to 16; zeros where `valid` is false (`source` must still be a valid address).
DEVICE void cp_async_16(void* shared, const void* source, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(shared)),
                 "l"(source), "r"(valid ? 16 : 0));
}
DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;\n"); }
// Waits until at most N of this thread's groups are under way.
template <int N> DEVICE void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(N));
}

// ---- tensor cores ---------------------------------------------------------------------------------

// Four 8x8 matrices of 16-bit numbers; lane l gives the address of row l % 8 of matrix l / 8.
DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)));
}
DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)));
}

// c += a * b with a 16x16 row-major, b 16x8 column-major, c 16x8.
template <class T>
DEVICE void mma_16816(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
template <>
DEVICE void mma_16816<bf16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
DEVICE void mma_16816<f16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// ---- order between kernels and blocks ---------------------------------------------------------------

// Programmatic dependent launch: wait for the kernel before; let the kernel after begin.
DEVICE void wait_for_previous_kernel() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
DEVICE void let_next_kernel_begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

#endif // FOLIO_EMULATOR

// ---- built from the above -----------------------------------------------------------------------------

// 1 / x to within an ulp; of infinity 0.
DEVICE float reciprocal_fast(float x) {
#ifdef FOLIO_EMULATOR
    return 1.0f / x;
#else
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

// The address, taken as it is: where several constants are added to it, the compiler would otherwise
// rebuild it from what it was made of for each of them.
template <class T> DEVICE T* opaque(T* address) {
#ifndef FOLIO_EMULATOR
    asm("" : "+l"(address));
#endif
    return address;
}

DEVICE float warp_sum(float x) {
    for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(~0u, x, distance);
    return x;
}
DEVICE float warp_max(float x) {
    for (int distance = 16; distance > 0; distance /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, distance));
    return x;
}
